//! Matrix products through cuBLASLt.

use super::profile::elapsed;
use super::{Cuda, Handle, arena::CudaBuffer};
use crate::{DType, Error, Result, Tensor};
use cudarc::cublaslt::{result as blas, sys};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::sync::Mutex;

/// Device memory that an algorithm may use between its parts.
const WORKSPACE: usize = 32 << 20;
/// Algorithms that are timed before one is chosen.
const CANDIDATES: usize = 8;
/// Runs of each, of which the fastest counts.
const TRIALS: usize = 3;

/// A matrix, or a batch of equal ones, in device memory.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    tensor: &'a Tensor,
    batch: usize,
    rows: usize,
    cols: usize,
    /// Elements between rows as they are stored, and between matrices.
    row_stride: usize,
    batch_stride: usize,
    /// Whether the matrix is the transpose of what is stored.
    transposed: bool,
}

impl<'a> Mat<'a> {
    /// A contiguous tensor as one matrix whose rows are its last axis.
    pub fn rows(tensor: &'a Tensor) -> Result<Self> {
        if !tensor.is_contiguous() {
            return Err(tensor.not_contiguous("matmul"));
        }
        let cols = tensor.last_dim();
        let rows = tensor.numel() / cols.max(1);
        Ok(Mat { tensor, batch: 1, rows, cols, row_stride: cols, batch_stride: 0, transposed: false })
    }

    /// The last two axes of a tensor with two or three, one of them with unit stride; the first of three counts
    /// matrices, and may be broadcast.
    pub fn view(tensor: &'a Tensor) -> Result<Self> {
        let (dims, strides) = (tensor.dims(), tensor.strides());
        let ([batch, rows, cols], [batch_stride, row, col]) = match (dims, strides) {
            (&[r, c], &[rs, cs]) => ([1, r, c], [0, rs, cs]),
            (&[b, r, c], &[bs, rs, cs]) => ([b, r, c], [bs, rs, cs]),
            _ => {
                return Err(Error::shape(
                    "matmul",
                    format!("dims {dims:?} are no matrix, nor a batch of them"),
                ));
            }
        };
        let (row_stride, transposed) = if col == 1 && (row >= cols || rows <= 1) {
            (row.max(cols), false)
        } else if row == 1 && (col >= rows || cols <= 1) {
            (col.max(rows), true)
        } else {
            return Err(tensor.not_contiguous("matmul"));
        };
        Ok(Mat { tensor, batch, rows, cols, row_stride, batch_stride, transposed })
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }
}

/// What an algorithm is chosen for: shapes, types, layouts and alignments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Problem {
    /// In cuBLASLt's order, which is by columns: the product's transpose.
    m: usize,
    n: usize,
    k: usize,
    batch: usize,
    operands: [Operand; 3],
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Operand {
    dtype: DType,
    transposed: bool,
    stride: usize,
    batch_stride: usize,
    /// Largest power of two up to 256 that divides the address.
    alignment: u32,
}

/// A problem and the algorithm chosen for it. What was chosen in one run and given to another makes their results the
/// same bits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlasChoice {
    /// The problem in words.
    pub problem: String,
    /// cuBLASLt's description of the algorithm.
    pub algorithm: [u64; 8],
}

#[derive(Default)]
pub(super) struct Blas(Mutex<State>);

#[derive(Default)]
struct State {
    ready: Option<(Handle<c_void>, CudaBuffer)>,
    plans: BTreeMap<Problem, Plan>,
    /// Algorithms by problem, as [`BlasChoice`] has them.
    chosen: BTreeMap<String, [u64; 8]>,
}

/// Descriptors and algorithm of a problem.
struct Plan {
    desc: Handle<sys::cublasLtMatmulDescOpaque_t>,
    layouts: [Handle<sys::cublasLtMatrixLayoutOpaque_t>; 3],
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Cuda {
    /// `c = alpha·a·b + beta·c`, in f32 or from bf16 with sums in f32; a batch of products if the operands are batches.
    /// `c` is contiguous `[…, rows, cols]`, f32 or bf16, and not read if `beta` is 0. Never TF32.
    ///
    /// # Errors
    /// If shapes or types do not fit, or `c` is shared.
    pub fn matmul(self, alpha: f32, a: Mat<'_>, b: Mat<'_>, beta: f32, c: &mut Tensor) -> Result<()> {
        const OP: &str = "matmul";
        let batch = a.batch.max(b.batch);
        let fits = a.cols == b.rows && [a.batch, b.batch].iter().all(|&n| n == batch || n == 1);
        if !fits || c.numel() != batch * a.rows * b.cols {
            let message = format!(
                "{}×[{}, {}] times {}×[{}, {}] into dims {:?}",
                a.batch,
                a.rows,
                a.cols,
                b.batch,
                b.rows,
                b.cols,
                c.dims()
            );
            return Err(Error::shape(OP, message));
        }
        let dtype = a.tensor.dtype();
        if b.tensor.dtype() != dtype || !matches!(dtype, DType::F32 | DType::BF16) {
            return Err(Error::dtype(OP, "two of f32 or two of bf16", b.tensor.dtype()));
        }
        if !matches!(c.dtype(), DType::F32 | DType::BF16) || (dtype == DType::F32 && c.dtype() != dtype) {
            return Err(Error::dtype(OP, "an output of f32, or bf16 from bf16", c.dtype()));
        }
        if c.numel() == 0 {
            return Ok(());
        }
        if a.cols == 0 {
            let to = c.device_address_mut(self, OP)?;
            return if beta == 0.0 {
                self.set_bytes(to, 0, c.numel() * c.dtype().size())
            } else {
                c.scale_assign(f64::from(beta))
            };
        }
        let addresses = [
            b.tensor.device_address(self, OP)?,
            a.tensor.device_address(self, OP)?,
            c.device_address_mut(self, OP)?,
        ];
        // By columns, as cuBLASLt reads memory, the rows of `c` are the product b·a.
        let operand = |mat: &Mat<'_>, address| Operand {
            dtype: mat.tensor.dtype(),
            transposed: mat.transposed,
            stride: mat.row_stride,
            batch_stride: if mat.batch == 1 { 0 } else { mat.batch_stride },
            alignment: alignment(address),
        };
        let problem = Problem {
            m: b.cols,
            n: a.rows,
            k: a.cols,
            batch,
            operands: [
                operand(&b, addresses[0]),
                operand(&a, addresses[1]),
                Operand {
                    dtype: c.dtype(),
                    transposed: false,
                    stride: b.cols,
                    batch_stride: a.rows * b.cols,
                    alignment: alignment(addresses[2]),
                },
            ],
        };
        self.bind()?;
        let mut state = self.0.blas.lock();
        state.plan(self, &problem, addresses)?;
        let State { ready: Some((handle, workspace)), plans, .. } = &*state else { return Ok(()) };
        let plan = &plans[&problem];
        self.timed("matmul", || plan.run(self, handle.0, workspace, [alpha, beta], addresses))
    }

    /// The algorithms chosen so far.
    pub fn blas_choices(self) -> Vec<BlasChoice> {
        let state = self.0.blas.lock();
        state
            .chosen
            .iter()
            .map(|(problem, &algorithm)| BlasChoice { problem: problem.clone(), algorithm })
            .collect()
    }

    /// Uses these algorithms for their problems instead of choosing again.
    pub fn set_blas_choices(self, choices: impl IntoIterator<Item = BlasChoice>) {
        let mut state = self.0.blas.lock();
        state.chosen.extend(choices.into_iter().map(|c| (c.problem, c.algorithm)));
        state.plans.clear();
    }
}

fn alignment(address: u64) -> u32 {
    1 << address.trailing_zeros().min(8)
}

impl Blas {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    /// Makes the plan of a problem if there is none yet.
    fn plan(&mut self, gpu: Cuda, problem: &Problem, addresses: [u64; 3]) -> Result<()> {
        if self.plans.contains_key(problem) {
            return Ok(());
        }
        if self.ready.is_none() {
            let handle = blas::create_handle().map_err(|e| failed(gpu, "cublasLtCreate", e))?;
            self.ready =
                Some((Handle(handle.cast()), CudaBuffer::new(gpu, WORKSPACE, &"cuBLASLt to work in")?));
        }
        let Some((handle, workspace)) = &self.ready else { return Ok(()) };
        let plan = Plan::new(problem).map_err(|e| failed(gpu, "describing a product", e))?;
        let name = problem.name();
        let algorithm = match self.chosen.get(&name) {
            Some(&data) => sys::cublasLtMatmulAlgo_t { data },
            None => choose(gpu, handle.0, workspace, problem, &plan, addresses)?,
        };
        self.chosen.insert(name, algorithm.data);
        self.plans.insert(problem.clone(), Plan { algorithm, ..plan });
        Ok(())
    }
}

impl Problem {
    fn name(&self) -> String {
        let Problem { m, n, k, batch, operands } = self;
        let operand = |o: &Operand| {
            let t = if o.transposed { "t" } else { "n" };
            format!("{}{t}{}+{}@{}", o.dtype, o.stride, o.batch_stride, o.alignment)
        };
        format!("{batch}x{m}x{n}x{k} {}", operands.iter().map(operand).collect::<Vec<_>>().join(" "))
    }
}

impl Plan {
    /// Descriptors; the algorithm is still to be chosen.
    fn new(problem: &Problem) -> Result<Self, blas::CublasError> {
        let data_type = |dtype| match dtype {
            DType::BF16 => sys::cudaDataType_t::CUDA_R_16BF,
            _ => sys::cudaDataType_t::CUDA_R_32F,
        };
        let desc = blas::create_matmul_desc(
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cudaDataType_t::CUDA_R_32F,
        )?;
        let [a, b, _] = &problem.operands;
        use sys::cublasLtMatmulDescAttributes_t as Attribute;
        for (attribute, operand) in
            [(Attribute::CUBLASLT_MATMUL_DESC_TRANSA, a), (Attribute::CUBLASLT_MATMUL_DESC_TRANSB, b)]
        {
            let transposed = i32::from(operand.transposed);
            // SAFETY: the attribute is a 32-bit integer.
            unsafe {
                blas::set_matmul_desc_attribute(desc, attribute, std::ptr::from_ref(&transposed).cast(), 4)
            }?;
        }
        let Problem { m, n, k, batch, .. } = *problem;
        let shapes = [[m, k], [k, n], [m, n]];
        let mut layouts = [const { Handle(std::ptr::null_mut()) }; 3];
        for ((layout, operand), [rows, cols]) in layouts.iter_mut().zip(&problem.operands).zip(shapes) {
            let [rows, cols] = if operand.transposed { [cols, rows] } else { [rows, cols] };
            let (rows, cols, stride) = (rows as u64, cols as u64, operand.stride as i64);
            let made = blas::create_matrix_layout(data_type(operand.dtype), rows, cols, stride)?;
            use sys::cublasLtMatrixLayoutAttribute_t as Attribute;
            let (count, offset) = (batch as i32, operand.batch_stride as i64);
            // SAFETY: the count is a 32-bit integer, the offset a 64-bit one.
            unsafe {
                let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
                blas::set_matrix_layout_attribute(made, attribute, std::ptr::from_ref(&count).cast(), 4)?;
                let attribute = Attribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                blas::set_matrix_layout_attribute(made, attribute, std::ptr::from_ref(&offset).cast(), 8)?;
            }
            *layout = Handle(made);
        }
        let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        Ok(Plan { desc: Handle(desc), layouts, algorithm })
    }

    fn run(
        &self,
        gpu: Cuda,
        handle: *mut c_void,
        workspace: &CudaBuffer,
        scales: [f32; 2],
        addresses: [u64; 3],
    ) -> Result<()> {
        let [a, b, c] = addresses.map(|address| address as *mut c_void);
        let [la, lb, lc] = &self.layouts;
        let scale = |i: usize| std::ptr::from_ref::<f32>(&scales[i]).cast();
        // SAFETY: the descriptors say how the operands lie in device memory, which holds them; the scales are read
        // before the call returns.
        unsafe {
            blas::matmul(
                handle.cast(),
                self.desc.0,
                scale(0),
                scale(1),
                a,
                la.0,
                b,
                lb.0,
                c,
                lc.0,
                c,
                lc.0,
                &self.algorithm,
                workspace.address() as *mut c_void,
                WORKSPACE,
                gpu.stream().cast(),
            )
        }
        .map_err(|e| failed(gpu, "a product", e))
    }
}

/// The fastest of cuBLASLt's proposals that give the same bits every time. In f32, which is for checking, and within a
/// capture, where nothing can be timed, the first one.
fn choose(
    gpu: Cuda,
    handle: *mut c_void,
    workspace: &CudaBuffer,
    problem: &Problem,
    plan: &Plan,
    addresses: [u64; 3],
) -> Result<sys::cublasLtMatmulAlgo_t> {
    let proposals = propose(handle, problem, plan).map_err(|e| failed(gpu, &problem.name(), e))?;
    let first = proposals.first().ok_or_else(|| {
        Error::device(gpu.to_string(), format!("cuBLASLt has no algorithm for {}", problem.name()))
    })?;
    if problem.operands[0].dtype == DType::F32 || gpu.is_capturing() {
        return Ok(*first);
    }
    // Products that are added to would be spoiled by trial runs, so those go to memory of their own.
    let [_, _, c] = &problem.operands;
    let scratch = {
        let len = problem.batch * problem.m * problem.n * c.dtype.size();
        CudaBuffer::new(gpu, len, &format_args!("trial runs of {}", problem.name()))?
    };
    let addresses = [addresses[0], addresses[1], scratch.address()];
    let mut best = (f32::INFINITY, *first);
    for algorithm in proposals {
        let plan = Plan {
            desc: Handle(plan.desc.0),
            layouts: plan.layouts.each_ref().map(|l| Handle(l.0)),
            algorithm,
        };
        for trial in 0..=TRIALS {
            let before = gpu.mark()?;
            if plan.run(gpu, handle, workspace, [1.0, 0.0], addresses).is_err() {
                break;
            }
            let events = [before, gpu.mark()?];
            gpu.synchronize()?;
            let time = elapsed(gpu, &events)?;
            gpu.unmark(events);
            // The first run warms up.
            if trial > 0 && time < best.0 {
                best = (time, algorithm);
            }
        }
    }
    Ok(best.1)
}

fn propose(
    handle: *mut c_void,
    problem: &Problem,
    plan: &Plan,
) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, blas::CublasError> {
    use sys::cublasLtMatmulPreferenceAttributes_t as Attribute;
    let preference = blas::create_matmul_pref()?;
    let alignment = problem.operands.each_ref().map(|o| o.alignment);
    // Partial sums of a split are added up in f32 and in order, or not split at all.
    let reductions = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    let words = [
        (Attribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, alignment[0]),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, alignment[1]),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, alignment[2]),
        (Attribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, alignment[2]),
    ];
    let bytes = WORKSPACE as u64;
    let [la, lb, lc] = &plan.layouts;
    let mut count = 0;
    // SAFETY: the attributes are 32-bit integers but the workspace's, which is 64-bit; the results are plain data that
    // cuBLASLt writes `count` of; the preference is destroyed once.
    let results = unsafe {
        let attribute = Attribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        blas::set_matmul_pref_attribute(preference, attribute, std::ptr::from_ref(&bytes).cast(), 8)?;
        for (attribute, word) in &words {
            blas::set_matmul_pref_attribute(preference, *attribute, std::ptr::from_ref(word).cast(), 4)?;
        }
        let mut results: [sys::cublasLtMatmulHeuristicResult_t; CANDIDATES] = std::mem::zeroed();
        let status = sys::cublasLtMatmulAlgoGetHeuristic(
            handle.cast(),
            plan.desc.0,
            la.0,
            lb.0,
            lc.0,
            lc.0,
            preference,
            CANDIDATES as i32,
            results.as_mut_ptr(),
            &mut count,
        );
        let _ = blas::destroy_matmul_pref(preference);
        status.result()?;
        results
    };
    let usable = results.iter().take(count.max(0) as usize);
    let usable = usable
        .filter(|r| r.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS && r.workspaceSize <= WORKSPACE);
    Ok(usable.map(|r| r.algo).collect())
}

fn failed(gpu: Cuda, what: &str, error: blas::CublasError) -> Error {
    Error::device(gpu.to_string(), format!("cuBLASLt, {what}: {:?}", error.0))
}
