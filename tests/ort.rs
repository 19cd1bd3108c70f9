//! A Rust program that has ONNX Runtime loads the shared library and runs the operators.
//!
//! ONNX Runtime is the one from PyPI: `ORT_DYLIB_PATH` names `libonnxruntime.so`; without it, the wheel in
//! the virtual environment that `make` uses is taken.

mod common;

use std::env;
use std::path::PathBuf;

use common::{hosts_in, library, onnx};
use focal_loss::{Inputs, Options, Reduction, Targets, backward, forward};
use ndarray::{Array1, Array2, ArrayD};
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session;
use ort::value::Tensor;

fn host() -> PathBuf {
    if let Some(path) = env::var_os("ORT_DYLIB_PATH") {
        return path.into();
    }
    hosts_in("venv")
        .into_iter()
        .next()
        .expect("set ORT_DYLIB_PATH to ONNX Runtime's libonnxruntime.so, or let `make test-rust` install it")
}

fn session(environment: &Environment, model: &[u8]) -> ort::Result<Session> {
    let builder = Session::builder(environment)?.with_operator_library(library())?;
    // A second time, as applications do that put their options together from parts.
    let builder = builder.with_operator_library(library())?.with_intra_threads(2)?;
    // Errors are expected below, and come back as such: the host need not print them as well.
    builder.with_log_level(LogLevel::Fatal)?.commit_from_memory(model)
}

fn result(session: &mut Session, inputs: Vec<(&'static str, ort::value::DynValue)>) -> ort::Result<Vec<f32>> {
    let outputs = session.run(inputs)?;
    let (_, values) = outputs["result"].try_extract_tensor::<f32>()?;
    Ok(values.to_vec())
}

fn tensor<T: ort::value::PrimitiveTensorElementType + Clone + std::fmt::Debug + 'static>(
    array: &ArrayD<T>,
) -> ort::value::DynValue {
    let values = array.iter().cloned().collect::<Vec<_>>();
    Tensor::from_array((array.shape().to_vec(), values)).expect("the sizes agree").into_dyn()
}

const ROWS: usize = 3000;
const CLASSES: usize = 40;

fn logits() -> ArrayD<f32> {
    Array2::from_shape_fn((ROWS, CLASSES), |(i, j)| ((i * 31 + j * 17) % 101) as f32 / 8.0 - 6.0).into_dyn()
}

fn targets() -> ArrayD<i64> {
    Array1::from_shape_fn(ROWS, |i| (i * 7 % (CLASSES + 1)) as i64).into_dyn()
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// One test, as the ONNX Runtime that is loaded is the process's.
#[test]
fn a_rust_host_runs_the_operators() -> Result<(), Box<dyn std::error::Error>> {
    let environment = &ort::init_from(host())?.build()?;
    let (logits, targets) = (logits(), targets());
    let given = Inputs::new(logits.view(), Targets::I64(targets.view()));

    for (name, reduction) in [("none", Reduction::None), ("sum", Reduction::Sum), ("mean", Reduction::Mean)] {
        let options = Options { reduction, ..Options::default() };
        let mut loss =
            session(environment, &onnx::model("SigmoidFocalLoss", &[("logits", false), ("targets", true)], name))?;
        let here = result(&mut loss, vec![("logits", tensor(&logits)), ("targets", tensor(&targets))])?;
        let expected = forward(&options, &given)?;
        assert!(same_bits(&here, expected.as_slice().expect("dense")), "{name}: the loss has the same bits");

        let inputs = [("grad_loss", false), ("logits", false), ("targets", true)];
        let mut gradient = session(environment, &onnx::model("SigmoidFocalLossGrad", &inputs, name))?;
        let grad_loss = expected.mapv(|value| value + 0.5);
        let values = [("grad_loss", tensor(&grad_loss)), ("logits", tensor(&logits)), ("targets", tensor(&targets))];
        let here = result(&mut gradient, values.into())?;
        let expected = backward(&options, &given, Some(grad_loss.view()))?;
        assert!(same_bits(&here, expected.as_slice().expect("dense")), "{name}: the gradient has the same bits");
    }

    // What does not fit is an error, and the session lives on.
    let mut loss =
        session(environment, &onnx::model("SigmoidFocalLoss", &[("logits", false), ("targets", true)], "mean"))?;
    let mut wrong = targets.clone();
    wrong[17] = -3;
    let error = result(&mut loss, vec![("logits", tensor(&logits)), ("targets", tensor(&wrong))]).expect_err("row 17");
    for part in ["SigmoidFocalLoss node 'loss'", "-3", "row 17"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    result(&mut loss, vec![("logits", tensor(&logits)), ("targets", tensor(&targets))])?;

    let error =
        session(environment, &onnx::model("SoftmaxFocalLoss", &[("logits", false), ("targets", true)], "average"));
    let error = error.expect_err("an unknown reduction").to_string();
    assert!(error.contains("reduction") && error.contains("average") && error.contains("mean"), "{error}");
    Ok(())
}
