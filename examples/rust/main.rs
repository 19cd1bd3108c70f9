//! Focal loss from Rust: the functions over `ndarray` views, and the operator in ONNX Runtime through `ort`.
//!
//! ```text
//! ORT_DYLIB_PATH=libonnxruntime.so cargo run --release --example rust -- libfocal_loss.so model.onnx
//! ```

use std::error::Error;

use focal_loss::{Inputs, Options, Reduction, Targets, forward};
use ndarray::{Array1, Array2};
use ort::session::Session;
use ort::value::Tensor;

fn textbook(logits: &Array2<f32>, targets: &Array1<i64>) -> f64 {
    let losses = logits.indexed_iter().map(|((row, class), &x)| {
        let positive = targets[row] == class as i64;
        let p = 1.0 / (1.0 + f64::exp(-f64::from(x)));
        let (p_t, alpha_t) = if positive { (p, 0.25) } else { (1.0 - p, 0.75) };
        -alpha_t * (1.0 - p_t).powi(2) * p_t.ln()
    });
    losses.sum()
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (library, model) = arguments.next().zip(arguments.next()).ok_or("usage: rust LIBRARY MODEL")?;
    let logits = Array2::from_shape_vec((2, 3), vec![2.0f32, -1.0, 0.5, -3.0, -2.0, -4.0])?;
    let targets = Array1::from_vec(vec![0i64, 3]); // an object of class 0; background (K = 3)
    let expected = textbook(&logits, &targets);

    let options = Options { reduction: Reduction::Sum, ..Options::default() }; // sigmoid, alpha 0.25, gamma 2
    let (x, y) = (logits.view().into_dyn(), targets.view().into_dyn());
    let here = forward(&options, &Inputs::new(x, Targets::I64(y)))?.sum();

    let environment = &ort::init().build()?;
    let mut session = Session::builder(environment)?.with_operator_library(library)?.commit_from_file(model)?;
    let features = Tensor::from_array(([2, 3], logits.into_raw_vec_and_offset().0))?;
    let indices = Tensor::from_array(([2], targets.into_raw_vec_and_offset().0))?;
    let outputs = session.run(ort::inputs!["features" => features, "targets" => indices])?;
    let (_, operator) = outputs["loss"].try_extract_tensor::<f32>()?;

    println!("the function: {here:.9}, the operator: {:.9}, by the textbook {expected:.9}", operator[0]);
    for loss in [here, operator[0]] {
        if (f64::from(loss) - expected).abs() > 1e-6 * expected {
            return Err("the loss is wrong".into());
        }
    }
    Ok(())
}
