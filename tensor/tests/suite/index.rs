use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Stream, Tensor};

const IDS: [DType; 3] = [DType::U32, DType::I32, DType::I64];

/// Ids below `bound`, in one of the three types, transposed in memory.
fn draw_ids(dims: &[usize], bound: usize, seed: u64) -> (Tensor, Vec<usize>) {
    let n: usize = dims.iter().product();
    let stream = Stream::new(seed ^ 7);
    let ids: Vec<usize> = (0..n).map(|i| stream.below(i as u64, bound as u64) as usize).collect();
    let wide: Vec<i64> = ids.iter().map(|&i| i as i64).collect();
    let tensor = Tensor::from_slice(&wide, dims, &CPU).unwrap().to_dtype(IDS[(seed % 3) as usize]).unwrap();
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
        let (ids, index) = draw_ids(&di, d[axis].max(1), seed);
        let out = [&d[..axis], &di[..], &d[axis + 1..]].concat();
        for dtype in [DType::F32, DType::F64, DType::BF16, DType::I8] {
            let x = draw(&d, dtype, seed);
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
        let (ids, index) = draw_ids(&di, n.max(1), seed);
        for dtype in FLOATS {
            let x = draw(&d, dtype, seed);
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
        let (ids, index) = draw_ids(&di, d[0].max(1), seed);
        let dr = [&di[..], &d[1..]].concat();
        let inner: usize = d[1..].iter().product();
        let (x, rows) = (draw(&d, DType::F32, seed), draw(&dr, DType::F32, seed ^ 1));
        let mut expected: Vec<f32> = x.values.iter().map(|&x| x as f32).collect();
        for (i, &id) in index.iter().enumerate() {
            for j in 0..inner {
                expected[id * inner + j] += rows.values[i * inner + j] as f32;
            }
        }
        let mut out = x.tensor.copy().unwrap();
        out.scatter_add(&ids, &rows.tensor).unwrap();
        check(&out, &d, DType::F32, &expected.iter().map(|&x| f64::from(x)).collect::<Vec<_>>(), 0.0);
    }
}

#[test]
fn an_id_out_of_range_is_named() {
    let mut x = Tensor::zeros(&[5, 2], DType::F32, &CPU).unwrap();
    let ids = Tensor::from_slice(&[0i32, 4, -1, 7], &[2, 2], &CPU).unwrap();
    let rows = Tensor::zeros(&[2, 2, 2], DType::F32, &CPU).unwrap();
    let wanted = "id -1 at position 2 is outside 0..5";
    let errors = [
        x.index_select(0, &ids).unwrap_err(),
        x.scatter_add(&ids, &rows).unwrap_err(),
        Tensor::zeros(&[2, 5], DType::F32, &CPU).unwrap().gather(&ids).unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert_eq!(x.to_vec::<f32>().unwrap(), [0.0; 10]);
    let large = Tensor::from_slice(&[i64::MAX], &[1], &CPU).unwrap();
    assert!(x.index_select(0, &large).unwrap_err().to_string().contains("9223372036854775807"));
}
