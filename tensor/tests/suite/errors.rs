use crate::support::*;
use tensor::{DType, Device, Tensor};

/// Errors name the operation, and the shapes or types it met.
#[test]
fn errors_say_operation_shapes_and_types() {
    devices().for_each(|device| errors_on(&device));
}

fn errors_on(device: &Device) {
    let zeros = |dims: &[usize], dtype| Tensor::zeros(dims, dtype, device).unwrap();
    let floats = if *device == CPU { "f32 or f64" } else { "f32 or bf16" };
    let x = zeros(&[2, 3], DType::F32);
    let wide = zeros(&[2, 4], DType::F32);
    let ints = zeros(&[2, 3], DType::I32);
    let turned = x.transpose(0, 1).unwrap();
    let of_mul = ["mul", floats, "i32"];
    let cases: Vec<(tensor::Result<()>, &[&str])> = vec![
        (x.add(&wide).map(drop), &["add", "[2, 3]", "[2, 4]"]),
        (x.add(&ints).map(drop), &["add", "f32", "i32"]),
        (ints.mul(&ints).map(drop), &of_mul),
        (ints.exp().map(drop), &["exp", "i32"]),
        (x.copy().unwrap().add_assign(&wide), &["add_assign", "[2, 4]", "[2, 3]"]),
        (x.transpose(0, 1).unwrap().scale_assign(2.0), &["scale_assign", "contiguous", "[3, 2]", "[1, 3]"]),
        (x.masked_fill(&x, 0.0).map(drop), &["masked_fill", "u8", "f32"]),
        (x.sum(2, false).map(drop), &["sum", "axis 2", "[2, 3]"]),
        (zeros(&[0, 2], DType::F32).max(0, false).map(drop), &["max", "axis 0", "[0, 2]"]),
        (zeros(&[0], DType::F64).min_all().map(drop), &["min_all", "[0]"]),
        (zeros(&[4, 0], DType::F32).argmax(1, false).map(drop), &["argmax", "axis 1", "[4, 0]"]),
        (ints.sum_all().map(drop), &["sum_all", "i32"]),
        (x.matmul(&wide).map(drop), &["matmul", "[2, 3]", "[2, 4]"]),
        (x.matmul(&zeros(&[3], DType::F32)).map(drop), &["matmul", "[3]", "two axes"]),
        (
            zeros(&[2, 2, 2], DType::F32).matmul(&zeros(&[3, 2, 2], DType::F32)).map(drop),
            &["matmul", "[3, 2, 2]"],
        ),
        (x.index_select(0, &x).map(drop), &["index_select", "u32, i32 or i64", "f32"]),
        (x.gather(&zeros(&[3, 1], DType::U32)).map(drop), &["gather", "[2, 3]", "[3, 1]"]),
        (
            x.copy().unwrap().scatter_add(&zeros(&[4], DType::U32), &wide),
            &["scatter_add", "[2, 4]", "[4]", "[2, 3]"],
        ),
        (x.topk(4).map(drop), &["topk", "4", "[2, 3]"]),
        (zeros(&[], DType::F32).sort(false).map(drop), &["sort", "[]"]),
        (Tensor::cat(&[], 0).map(drop), &["cat"]),
        (Tensor::cat(&[&x, &turned], 0).map(drop), &["cat", "[2, 3]", "[3, 2]"]),
        (Tensor::cat(&[&x, &ints], 0).map(drop), &["cat", "f32", "i32"]),
        (Tensor::stack(&[&x, &wide], 0).map(drop), &["stack", "[2, 3]", "[2, 4]"]),
        (x.split(1, &[1, 1]).map(drop), &["split", "[1, 1]", "[2, 3]"]),
        (x.split(1, &[usize::MAX, 4]).map(drop), &["split"]),
        (x.reshape(&[usize::MAX, 6]).map(drop), &["reshape", "[2, 3]"]),
        (zeros(&[1], DType::F32).broadcast_to(&[usize::MAX, 2]).map(drop), &["broadcast_to", "[1]"]),
        (Tensor::empty(&[usize::MAX, 3], DType::F32, device).map(drop), &["empty", "overflow"]),
        (x.copy().unwrap().partition(&[&[usize::MAX, 2]]).map(drop), &["partition", "[2, 3]"]),
        (
            Tensor::normal(0.0, 1.0, &[1], DType::U8, device, tensor::Stream::new(0)).map(drop),
            &["normal", "float", "u8"],
        ),
    ];
    for (result, parts) in cases {
        let message = result.expect_err(parts[0]).to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
    }
}
