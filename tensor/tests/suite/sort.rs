use crate::support::*;
use proptest::prelude::*;
use std::cmp::Ordering;
use tensor::{DType, Tensor};

/// NaN above everything, zeros equal.
fn order(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan()))
}

/// Numbers full of ties and special values.
fn number() -> impl Strategy<Value = f32> {
    let special = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-42, f32::MIN];
    prop_oneof![proptest::sample::select(special.to_vec()), (-4i8..5).prop_map(f32::from), any::<f32>()]
}

proptest! {
    #[test]
    fn sort_and_topk_are_stable_and_place_nan_on_top(
        rows in proptest::collection::vec(proptest::collection::vec(number(), 23), 0..4),
        n in 0usize..24,
        k in 0usize..24,
        descending: bool,
    ) {
        poison();
        let rows: Vec<Vec<f32>> = rows.into_iter().map(|r| r[..n.min(23)].to_vec()).collect();
        let (n, k) = (n.min(23), k.min(n).min(23));
        for (device, dtype) in places() {
            let flat = Tensor::from_slice(&rows.concat(), &[rows.len(), n], &CPU).unwrap();
            let flat = flat.to_dtype(dtype).unwrap().to_device(&device).unwrap();
            let rows: Vec<Vec<f64>> = values(&flat).chunks(n.max(1)).map(<[f64]>::to_vec).collect();
            let rows = if n == 0 { vec![Vec::new(); flat.dims()[0]] } else { rows };
            // Laid out by columns.
            let x = flat.transpose(0, 1).unwrap().contiguous().unwrap().transpose(0, 1).unwrap();
            for (descending, k, (values, places)) in
                [(descending, n, x.sort(descending).unwrap()), (true, k, x.topk(k).unwrap())]
            {
                let (mut v, mut p) = (Vec::new(), Vec::new());
                for row in &rows {
                    let mut at: Vec<usize> = (0..n).collect();
                    at.sort_by(|&a, &b| {
                        let o = order(row[a], row[b]);
                        if descending { o.reverse() } else { o }
                    });
                    v.extend(at[..k].iter().map(|&i| row[i]));
                    p.extend(at[..k].iter().map(|&i| i as f64));
                }
                check(&values, &[rows.len(), k], dtype, &v, 0.0);
                check(&places, &[rows.len(), k], DType::U32, &p, 0.0);
            }
        }
    }
}

#[test]
fn topk_of_long_rows() {
    for device in devices() {
        for (n, k) in [(5000, 7), (5000, 4000), (32_064, 256), (70_000, 1024)] {
            let x = draw(&[3, n], DType::F32, &device, 4);
            let (values, places) = x.tensor.topk(k).unwrap();
            let (all, order) = x.tensor.sort(true).unwrap();
            assert_eq!(bits(&values), bits(&all.narrow(1, 0, k).unwrap()));
            assert_eq!(bits(&places), bits(&order.narrow(1, 0, k).unwrap()));
            assert_eq!(bits(&x.tensor.gather(&places).unwrap()), bits(&values));
            let all = all.to_vec::<f32>().unwrap();
            assert!(all.chunks_exact(n).all(|row| row.is_sorted_by(|a, b| a >= b)), "{device} {n}");
        }
    }
}
