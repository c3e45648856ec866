use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Device, Stream, Tensor};

const IDS: [DType; 3] = [DType::U32, DType::I32, DType::I64];

/// Ids below `bound`, in one of the three types, transposed in memory.
fn draw_ids(dims: &[usize], bound: usize, device: &Device, seed: u64) -> (Tensor, Vec<usize>) {
    let n: usize = dims.iter().product();
    let stream = Stream::new(seed ^ 7);
    let ids: Vec<usize> = (0..n).map(|i| stream.below(i as u64, bound as u64) as usize).collect();
    let wide: Vec<i64> = ids.iter().map(|&i| i as i64).collect();
    let tensor = Tensor::from_slice(&wide, dims, device).unwrap().to_dtype(IDS[(seed % 3) as usize]).unwrap();
    let order: Vec<usize> = (0..dims.len()).rev().collect();
    let turned = tensor.permute(&order).unwrap().contiguous().unwrap().permute(&order).unwrap();
    (turned, ids)
}

proptest! {
    #[test]
    fn index_select_picks_slices(
        d in dims(1..=3), axis in 0usize..3, di in dims(0..=2), seed: u64,
    ) {
        poison();
        let axis = axis % d.len();
        prop_assume!(d[axis] > 0 || di.contains(&0));
        let out = [&d[..axis], &di[..], &d[axis + 1..]].concat();
        let more = devices().flat_map(|device| [DType::BF16, DType::I8].map(|dtype| (device.clone(), dtype)));
        for (device, dtype) in places().chain(more) {
            let (ids, index) = draw_ids(&di, d[axis].max(1), &device, seed);
            let x = draw(&d, dtype, &device, seed);
            let source = values(&x.tensor);
            let expected: Vec<f64> = indices(&out)
                .iter()
                .map(|at| {
                    let id = index[position(&at[axis..axis + di.len()], &di)];
                    let from = [&at[..axis], &[id], &at[axis + di.len()..]].concat();
                    source[position(&from, &d)]
                })
                .collect();
            check(&x.tensor.index_select(axis, &ids).unwrap(), &out, dtype, &expected, 0.0);
        }
    }

    #[test]
    fn gather_picks_along_the_last_axis(d in dims(1..=3), k in 0usize..9, seed: u64) {
        poison();
        let n = d[d.len() - 1];
        prop_assume!(n > 0 || k == 0);
        let mut di = d.clone();
        di[d.len() - 1] = k;
        for (device, dtype) in places() {
            let (ids, index) = draw_ids(&di, n.max(1), &device, seed);
            let x = draw(&d, dtype, &device, seed);
            let expected: Vec<f64> = indices(&di)
                .iter()
                .enumerate()
                .map(|(i, at)| x.values[position(&[&at[..at.len() - 1], &[index[i]]].concat(), &d)])
                .collect();
            check(&x.tensor.gather(&ids).unwrap(), &di, dtype, &expected, 0.0);
        }
    }

    #[test]
    fn scatter_add_adds_repeated_ids_in_order(d in dims(1..=3), di in dims(0..=2), seed: u64) {
        poison();
        prop_assume!(d[0] > 0 || di.contains(&0));
        let dr = [&di[..], &d[1..]].concat();
        let inner: usize = d[1..].iter().product();
        for device in devices() {
            let (ids, index) = draw_ids(&di, d[0].max(1), &device, seed);
            let (x, rows) = (draw(&d, DType::F32, &device, seed), draw(&dr, DType::F32, &device, seed ^ 1));
            let mut expected: Vec<f32> = x.values.iter().map(|&x| x as f32).collect();
            for (i, &id) in index.iter().enumerate() {
                for j in 0..inner {
                    expected[id * inner + j] += rows.values[i * inner + j] as f32;
                }
            }
            let expected: Vec<f64> = expected.iter().map(|&x| f64::from(x)).collect();
            let mut out = x.tensor.copy().unwrap();
            out.scatter_add(&ids, &rows.tensor).unwrap();
            check(&out, &d, DType::F32, &expected, 0.0);
        }
    }
}

#[test]
fn many_repeated_ids_are_added_in_order() {
    poison();
    let (count, rows, width) = (9001, 37, 300);
    let ids: Vec<u32> = (0..count).map(|i| Stream::new(3).below(i, 1 + i % rows) as u32).collect();
    let outcome = |device: &Device| {
        let normal =
            |dims: &[usize]| Tensor::normal(0.0, 1.0, dims, DType::F32, device, Stream::new(4)).unwrap();
        let mut out = normal(&[rows as usize, width]);
        let ids = Tensor::from_slice(&ids, &[count as usize], device).unwrap();
        out.scatter_add(&ids, &normal(&[count as usize, width])).unwrap();
        bits(&out)
    };
    let expected = outcome(&CPU);
    for device in devices().skip(1) {
        assert!(outcome(&device) == expected, "{device}");
    }
}

#[test]
fn an_id_out_of_range_is_named() {
    for device in devices() {
        let mut x = Tensor::zeros(&[5, 2], DType::F32, &device).unwrap();
        let ids = Tensor::from_slice(&[0i32, 4, -1, 7], &[2, 2], &device).unwrap();
        let rows = Tensor::zeros(&[2, 2, 2], DType::F32, &device).unwrap();
        let wanted = "id -1 at position 2 is outside 0..5";
        let errors = [
            x.index_select(0, &ids).unwrap_err(),
            x.scatter_add(&ids, &rows).unwrap_err(),
            Tensor::zeros(&[2, 5], DType::F32, &device).unwrap().gather(&ids).unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains(wanted), "{error}");
        }
        assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 10]);
        let large = Tensor::from_slice(&[i64::MAX], &[1], &device).unwrap();
        assert!(x.index_select(0, &large).unwrap_err().to_string().contains("9223372036854775807"));
    }
}
