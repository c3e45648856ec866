//! Causal attention with grouped key/value heads and capped logits, in tiles: nothing T×T in memory
//! (FlashAttention, Dao et al. 2022; grouped queries, Ainslie et al. 2023; soft-capping, Gemma 2).

mod cuda;

use super::expect_dims;
use super::soft_cap::{slope, soft_cap};
use autograd::{GradSink, Grads, Op, Outputs};
use rayon::prelude::*;
use smallvec::smallvec;
use tensor::cpu::gemm::{MatMut, MatRef};
use tensor::cpu::lanes;
use tensor::cpu::simd::dispatch;
use tensor::{DType, Device, Element, Error, Float, Result, Tensor, with_float};

/// `y = softmax(cap·tanh(q·kᵀ/√d / cap) + mask)·v`. Inputs: q `[B, T, Hq, d]`; k, v `[B, S, Hkv, d]`, S ≥ T: the
/// queries are the last T of S positions. Output `[B, T, Hq, d]`. Query head h reads key head `h / (Hq/Hkv)`.
///
/// Query position i sees keys `first_key[i]..=i`: the causal mask and the document (or padding) mask together.
///
/// On a GPU: f32 or bf16, even d up to 256. In bf16 the logits and sums are f32, the weights bf16 on their way into
/// products; a first key past its query's position counts as that position, where the CPU reports an error.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Bound of the logits; 0 for none.
    pub softcap: f64,
    /// First key position that each query sees, u32 `[B, T]`, at most its own position; `None` for the first of all.
    pub first_key: Option<Tensor>,
}

/// Queries and keys of one tile.
const QUERIES: usize = 64;
const KEYS: usize = 128;

/// The inputs, the output, and each query's log-sum of exponentials `[B, T, Hq]`.
pub struct Saved {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    y: Tensor,
    log_sum: Tensor,
}

#[derive(Clone, Copy)]
struct Shape {
    t: usize,
    s: usize,
    heads: usize,
    kv_heads: usize,
    d: usize,
}

impl Shape {
    fn of(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(usize, Self)> {
        let ([b, t, heads, d], [kb, s, kv_heads, kd]) = (q.dims_n("attention")?, k.dims_n("attention")?);
        if kb != b || kd != d || s < t || kv_heads == 0 || heads % kv_heads != 0 {
            let message = format!("q {:?} does not fit k {:?}", q.dims(), k.dims());
            return Err(Error::shape("attention", message));
        }
        expect_dims("attention", "v", v, k.dims())?;
        Ok((b, Shape { t, s, heads, kv_heads, d }))
    }

    /// Position of query `i` among the keys.
    fn position(&self, i: usize) -> usize {
        self.s - self.t + i
    }

    /// Rows of head `h` of one sequence, `heads` heads in memory.
    fn head<'a, T>(&self, x: &'a [T], heads: usize, h: usize, from: usize, rows: usize) -> MatRef<'a, T> {
        MatRef::new(&x[(from * heads + h) * self.d..], rows, self.d, heads * self.d, 1)
    }
}

impl Op for Attention {
    const NAME: &'static str = "attention";
    type Saved = Saved;

    fn forward(&self, inputs: &[&Tensor], keep: bool) -> Result<(Outputs, Option<Saved>)> {
        let (q, k, v) = (inputs[0].contiguous()?, inputs[1].contiguous()?, inputs[2].contiguous()?);
        let (b, shape) = Shape::of(&q, &k, &v)?;
        if let Device::Cuda(gpu) = q.device() {
            self.check_first_key(b, shape)?;
            let (q, k, v) = (cuda::aligned(q)?, cuda::aligned(k)?, cuda::aligned(v)?);
            let (y, log_sum) =
                cuda::Attending::new(self, gpu, (b, shape), [&q, &k, &v])?.forward(&q, &k, &v)?;
            let saved = keep.then(|| Saved { q, k, v, y: y.clone(), log_sum });
            return Ok((smallvec![y], saved));
        }
        let mut y = Tensor::empty(q.dims(), q.dtype(), &q.device())?;
        let mut log_sum = Tensor::empty(&[b, shape.t, shape.heads], q.dtype(), &q.device())?;
        let first_key = self.first_keys(b, shape)?;
        with_float!(Self::NAME, q.dtype(), T => {
            let (q, k, v) = (q.as_slice::<T>()?, k.as_slice::<T>()?, v.as_slice::<T>()?);
            let row = shape.heads * shape.d;
            if q.is_empty() {
                return Ok((smallvec![y.clone()], None));
            }
            let kv = shape.s * shape.kv_heads * shape.d;
            let cap = T::from_f64(self.softcap);
            // One task a tile of queries of one sequence: its outputs are adjacent.
            let tiles: Vec<_> = (y.as_mut_slice::<T>()?.chunks_mut(shape.t * row).enumerate())
                .zip(log_sum.as_mut_slice::<T>()?.chunks_mut(shape.t * shape.heads))
                .flat_map(|((b, y), log_sum)| {
                    y.chunks_mut(QUERIES * row).zip(log_sum.chunks_mut(QUERIES * shape.heads)).enumerate().map(move |x| (b, x))
                })
                .collect();
            tiles.into_par_iter().for_each(|(b, (tile, (y, log_sum)))| {
                let from = tile * QUERIES;
                let first = first_key.map(|f| &f[b * shape.t + from..][..y.len() / row]);
                let (k, v) = (&k[b * kv..][..kv], &v[b * kv..][..kv]);
                let q = &q[b * shape.t * row..][..shape.t * row];
                for h in 0..shape.heads {
                    forward_tile(shape, cap, first, q, k, v, from, h, y, log_sum);
                }
            });
            Ok(())
        })?;
        let saved = keep.then(|| Saved { q, k, v, y: y.clone(), log_sum });
        Ok((smallvec![y], saved))
    }

    fn backward(&self, saved: Saved, mut dy: Grads, sinks: &mut [Option<GradSink<'_>>]) -> Result<()> {
        let Some(dy) = dy.pop().flatten() else { return Ok(()) };
        let dy = dy.contiguous()?;
        let (b, shape) = Shape::of(&saved.q, &saved.k, &saved.v)?;
        if let Device::Cuda(gpu) = saved.q.device() {
            let attending = cuda::Attending::new(self, gpu, (b, shape), [&saved.q, &saved.k, &saved.v])?;
            return give(attending.backward(&saved, &cuda::aligned(dy)?)?, sinks);
        }
        let Saved { q, k, v, y, log_sum } = saved;
        let first_key = self.first_keys(b, shape)?;
        let mut dq = Tensor::zeros(q.dims(), q.dtype(), &q.device())?;
        let mut dk = Tensor::zeros(k.dims(), k.dtype(), &k.device())?;
        let mut dv = Tensor::zeros(v.dims(), v.dtype(), &v.device())?;
        with_float!(Self::NAME, q.dtype(), T => {
            let inputs = Sequences::<T> {
                q: q.as_slice()?, k: k.as_slice()?, v: v.as_slice()?, y: y.as_slice()?, dy: dy.as_slice()?,
                log_sum: log_sum.as_slice()?,
            };
            let grads = [dq.as_mut_slice::<T>()?.as_mut_ptr(), dk.as_mut_slice::<T>()?.as_mut_ptr(),
                dv.as_mut_slice::<T>()?.as_mut_ptr()].map(Shared);
            let cap = T::from_f64(self.softcap);
            (0..b * shape.kv_heads).into_par_iter().for_each(|task| {
                let (b, kv_head) = (task / shape.kv_heads, task % shape.kv_heads);
                let first = first_key.map(|f| &f[b * shape.t..][..shape.t]);
                let queries = b * shape.t * shape.heads * shape.d;
                let keys = b * shape.s * shape.kv_heads * shape.d;
                // SAFETY: each task moves to its own sequence, within the tensors of these shapes.
                let grads = unsafe { [grads[0].offset(queries), grads[1].offset(keys), grads[2].offset(keys)] };
                backward_group(shape, cap, first, &inputs.sequence(b, shape), kv_head, grads);
            });
            Ok(())
        })?;
        give([dq, dk, dv], sinks)
    }
}

fn give(grads: [Tensor; 3], sinks: &mut [Option<GradSink<'_>>]) -> Result<()> {
    for (sink, grad) in sinks.iter_mut().zip(grads) {
        if let Some(sink) = sink {
            sink.give(grad)?;
        }
    }
    Ok(())
}

impl Attention {
    fn check_first_key(&self, b: usize, shape: Shape) -> Result<()> {
        let Some(first) = &self.first_key else { return Ok(()) };
        if first.dtype() != DType::U32 {
            return Err(Error::dtype(Self::NAME, "u32 for first_key", first.dtype()));
        }
        expect_dims(Self::NAME, "first_key", first, &[b, shape.t])
    }

    fn first_keys(&self, b: usize, shape: Shape) -> Result<Option<&[u32]>> {
        self.check_first_key(b, shape)?;
        let Some(first) = &self.first_key else { return Ok(None) };
        let keys = first.as_slice::<u32>()?;
        if let Some(at) = (0..keys.len()).find(|&i| keys[i] as usize > shape.position(i % shape.t)) {
            let message = format!("query {at} has its first key {} after itself", keys[at]);
            return Err(Error::argument(Self::NAME, message));
        }
        Ok(Some(keys))
    }
}

/// Keys within `from..from + n` that query `i` of the sequence sees, relative to `from`.
fn visible(shape: Shape, first: Option<u32>, i: usize, from: usize, n: usize) -> std::ops::Range<usize> {
    let low = (first.unwrap_or(0) as usize).saturating_sub(from).min(n);
    let high = (shape.position(i) + 1).saturating_sub(from).min(n);
    low.min(high)..high
}

/// Key tiles `(from, count)` that queries `i0..i0 + n` see any of.
fn key_tiles(
    shape: Shape,
    first: Option<&[u32]>,
    i0: usize,
    n: usize,
) -> impl Iterator<Item = (usize, usize)> {
    let low = first.map_or(0, |f| f.iter().copied().min().unwrap_or(0) as usize);
    let high = shape.position(i0 + n - 1) + 1;
    (low / KEYS * KEYS..high).step_by(KEYS).map(move |from| (from, KEYS.min(high - from)))
}

#[allow(clippy::too_many_arguments, reason = "the tile's place and its tensors")]
fn forward_tile<T: Float>(
    shape: Shape,
    cap: T,
    first: Option<&[u32]>,
    q: &[T],
    k: &[T],
    v: &[T],
    from: usize,
    h: usize,
    y: &mut [T],
    log_sum: &mut [T],
) {
    let Shape { heads, kv_heads, d, .. } = shape;
    let n = y.len() / (heads * d);
    let group = h / (heads / kv_heads);
    let scale = T::from_f64(1.0 / (d as f64).sqrt());
    let query = shape.head(q, heads, h, from, n);
    let (mut logits, mut sum) = (vec![T::ZERO; n * KEYS], vec![T::ZERO; n * d]);
    let (mut top, mut mass) = ([T::NEG_INFINITY; QUERIES], [T::ZERO; QUERIES]);
    for (key, count) in key_tiles(shape, first, from, n) {
        let logits = &mut logits[..n * count];
        let keys = shape.head(k, kv_heads, group, key, count).t();
        T::gemm_block(scale, query, keys, T::ZERO, MatMut::row_major(logits, n, count));
        dispatch(
            #[inline(always)]
            || {
                for (i, row) in logits.chunks_exact_mut(count).enumerate() {
                    let seen = visible(shape, first.map(|f| f[i]), from + i, key, count);
                    row[..seen.start].fill(T::ZERO);
                    row[seen.end..].fill(T::ZERO);
                    let row = &mut row[seen];
                    if row.is_empty() {
                        continue;
                    }
                    if cap > T::ZERO {
                        for x in row.iter_mut() {
                            *x = soft_cap(*x, cap);
                        }
                    }
                    let new_top = lanes::max(row).max(top[i]);
                    let shrink = (top[i] - new_top).exp();
                    for x in row.iter_mut() {
                        *x = (*x - new_top).exp();
                    }
                    mass[i] = mass[i] * shrink + lanes::sum(row);
                    top[i] = new_top;
                    if shrink < T::ONE {
                        for x in &mut sum[i * d..][..d] {
                            *x *= shrink;
                        }
                    }
                }
            },
        );
        let values = shape.head(v, kv_heads, group, key, count);
        T::gemm_block(
            T::ONE,
            MatRef::row_major(logits, n, count),
            values,
            T::ONE,
            MatMut::row_major(&mut sum, n, d),
        );
    }
    for i in 0..n {
        let y = &mut y[(i * heads + h) * d..][..d];
        for (y, &sum) in y.iter_mut().zip(&sum[i * d..]) {
            *y = sum / mass[i];
        }
        log_sum[i * heads + h] = top[i] + mass[i].ln();
    }
}

/// A pointer that tasks write through, each to its own part.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: tasks write disjoint parts.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// # Safety
    /// The result must lie in the same allocation.
    unsafe fn offset(self, n: usize) -> Self {
        // SAFETY: promised by the caller.
        Shared(unsafe { self.0.add(n) })
    }

    /// Rows `from..from + rows` of head `h`.
    ///
    /// # Safety
    /// Nobody else uses that head while the view lives.
    unsafe fn head<'a>(
        self,
        shape: Shape,
        heads: usize,
        h: usize,
        from: usize,
        rows: usize,
    ) -> MatMut<'a, T> {
        // SAFETY: promised by the caller; the rows lie within the sequence.
        unsafe { MatMut::from_raw(self.0.add((from * heads + h) * shape.d), rows, shape.d, heads * shape.d) }
    }
}

/// What the backward pass reads.
#[derive(Clone, Copy)]
struct Sequences<'a, T> {
    q: &'a [T],
    k: &'a [T],
    v: &'a [T],
    y: &'a [T],
    dy: &'a [T],
    log_sum: &'a [T],
}

impl<'a, T> Sequences<'a, T> {
    fn sequence(&self, b: usize, shape: Shape) -> Sequences<'a, T> {
        let part = |x: &'a [T], n: usize| &x[b * n..][..n];
        let (q, k) = (shape.t * shape.heads * shape.d, shape.s * shape.kv_heads * shape.d);
        Sequences {
            q: part(self.q, q),
            k: part(self.k, k),
            v: part(self.v, k),
            y: part(self.y, q),
            dy: part(self.dy, q),
            log_sum: part(self.log_sum, shape.t * shape.heads),
        }
    }
}

/// One sequence, one key head and the query heads that share it, tile by tile:
/// `P = exp(L - log_sum)`, `dV += Pᵀ·dY`, `dL = P·(dY·Vᵀ - Σ dY·Y)`, then through the cap to `dQ` and `dK`.
fn backward_group<T: Float>(
    shape: Shape,
    cap: T,
    first: Option<&[u32]>,
    x: &Sequences<'_, T>,
    kv_head: usize,
    [dq, dk, dv]: [Shared<T>; 3],
) {
    let Shape { t, heads, kv_heads, d, .. } = shape;
    let scale = T::from_f64(1.0 / (d as f64).sqrt());
    let (mut p, mut dl) = (vec![T::ZERO; QUERIES * KEYS], vec![T::ZERO; QUERIES * KEYS]);
    let group = heads / kv_heads;
    for h in kv_head * group..(kv_head + 1) * group {
        for from in (0..t).step_by(QUERIES) {
            let n = QUERIES.min(t - from);
            let first = first.map(|f| &f[from..][..n]);
            let (query, dy) = (shape.head(x.q, heads, h, from, n), shape.head(x.dy, heads, h, from, n));
            let mut delta = [T::ZERO; QUERIES];
            for (i, delta) in delta[..n].iter_mut().enumerate() {
                let at = ((from + i) * heads + h) * d;
                *delta = dispatch(
                    #[inline(always)]
                    || lanes::dot(&x.dy[at..][..d], &x.y[at..][..d]),
                );
            }
            for (key, count) in key_tiles(shape, first, from, n) {
                let (p, dl) = (&mut p[..n * count], &mut dl[..n * count]);
                let keys = shape.head(x.k, kv_heads, kv_head, key, count);
                let values = shape.head(x.v, kv_heads, kv_head, key, count);
                T::gemm_block(scale, query, keys.t(), T::ZERO, MatMut::row_major(p, n, count));
                T::gemm_block(T::ONE, dy, values.t(), T::ZERO, MatMut::row_major(dl, n, count));
                dispatch(
                    #[inline(always)]
                    || {
                        for (i, (p, dl)) in
                            p.chunks_exact_mut(count).zip(dl.chunks_exact_mut(count)).enumerate()
                        {
                            let seen = visible(shape, first.map(|f| f[i]), from + i, key, count);
                            for out in [&mut *p, &mut *dl] {
                                out[..seen.start].fill(T::ZERO);
                                out[seen.end..].fill(T::ZERO);
                            }
                            let (p, dl) = (&mut p[seen.clone()], &mut dl[seen]);
                            let log_sum = x.log_sum[(from + i) * heads + h];
                            if cap > T::ZERO {
                                for (p, dl) in p.iter_mut().zip(dl) {
                                    let logit = soft_cap(*p, cap);
                                    *p = (logit - log_sum).exp();
                                    *dl = *p * (*dl - delta[i]) * slope(logit, cap);
                                }
                            } else {
                                for (p, dl) in p.iter_mut().zip(dl) {
                                    *p = (*p - log_sum).exp();
                                    *dl = *p * (*dl - delta[i]);
                                }
                            }
                        }
                    },
                );
                let (p, dl) = (MatRef::row_major(p, n, count), MatRef::row_major(dl, n, count));
                // SAFETY: this task alone writes the query heads of its group and its key head.
                unsafe {
                    let dv = dv.head(shape, kv_heads, kv_head, key, count);
                    T::gemm_block(T::ONE, p.t(), dy, T::ONE, dv);
                    let dq = dq.head(shape, heads, h, from, n);
                    T::gemm_block(scale, dl, keys, T::ONE, dq);
                    let dk = dk.head(shape, kv_heads, kv_head, key, count);
                    T::gemm_block(scale, dl.t(), query, T::ONE, dk);
                }
            }
        }
    }
}
