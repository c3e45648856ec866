use crate::support::*;
use proptest::prelude::*;
use tensor::{DType, Tensor};

fn oracle(a: &Drawn, b: &Drawn, out: &[usize]) -> (Vec<f64>, f64) {
    let (da, db) = (a.tensor.dims(), b.tensor.dims());
    let k = da[da.len() - 1];
    let own = |index: &[usize], dims: &[usize]| -> Vec<usize> {
        let lead = index.len() - (dims.len() - 2);
        index[lead..].iter().zip(dims).map(|(&i, &d)| if d == 1 { 0 } else { i }).collect()
    };
    let mut largest = 0f64;
    let cell = |index: &Vec<usize>| {
        let (batch, at) = index.split_at(out.len() - 2);
        let (ia, ib) = (own(batch, da), own(batch, db));
        let (mut sum, mut size) = (0.0, 0.0);
        for p in 0..k {
            let x = a.values[position(&[&ia[..], &[at[0], p]].concat(), da)];
            let y = b.values[position(&[&ib[..], &[p, at[1]]].concat(), db)];
            sum += x * y;
            size += (x * y).abs();
        }
        largest = largest.max(size);
        sum
    };
    (indices(out).iter().map(cell).collect(), largest)
}

proptest! {
    #[test]
    fn products_of_any_strides_and_batches(
        batch in dims(0..=3),
        m in 0usize..20, k in 0usize..20, n in 0usize..20,
        shrink_a in 0usize..4, shrink_b in 0usize..4, ones in 0usize..16,
        seed: u64,
    ) {
        poison();
        prop_assume!(batch.iter().product::<usize>() < 2000);
        let side = |drop: usize, bit: usize, last: [usize; 2]| {
            let mut d = batch[drop.min(batch.len())..].to_vec();
            if let Some(first) = d.first_mut()
                && ones >> bit & 1 == 1 { *first = 1 }
            d.extend(last);
            d
        };
        // One side keeps all batch axes, the other may drop leading ones and repeat one.
        let (da, db) = if seed % 2 == 0 {
            (side(0, 4, [m, k]), side(shrink_b, 1, [k, n]))
        } else {
            (side(shrink_a, 0, [m, k]), side(0, 4, [k, n]))
        };
        let mut out = batch.clone();
        out.extend([m, n]);
        for (device, dtype) in places() {
            let (a, b) = (draw(&da, dtype, &device, seed), draw(&db, dtype, &device, seed ^ 1));
            let (expected, size) = oracle(&a, &b, &out);
            let close = tolerance(dtype) * size.max(1.0);
            check(&a.tensor.matmul(&b.tensor).unwrap(), &out, dtype, &expected, close);
        }
    }
}

#[test]
fn large_products_in_every_transpose_form() {
    poison();
    let (m, k, n) = (129, 301, 67);
    let turn = |x: Tensor| x.transpose(0, 1).unwrap();
    for form in 0..4 {
        for (device, dtype) in places() {
            let a = draw(&[m, k], dtype, &device, 1);
            let b = draw(&[k, n], dtype, &device, 2);
            let (expected, size) = oracle(&a, &b, &[m, n]);
            let x = if form & 1 == 1 { turn(turn(a.tensor).contiguous().unwrap()) } else { a.tensor };
            let y = if form & 2 == 2 { turn(turn(b.tensor).contiguous().unwrap()) } else { b.tensor };
            check(&x.matmul(&y).unwrap(), &[m, n], dtype, &expected, tolerance(dtype) * size);
        }
    }
}

#[test]
fn an_empty_inner_axis_gives_zeros() {
    poison();
    for device in devices() {
        let a = Tensor::zeros(&[2, 3, 0], DType::F32, &device).unwrap();
        let b = Tensor::zeros(&[0, 4], DType::F32, &device).unwrap();
        check(&a.matmul(&b).unwrap(), &[2, 3, 4], DType::F32, &[0.0; 24], 0.0);
    }
}
