//! What the loss means: properties that tell focal loss from its imitations.

use focal_loss::{
    Activation, ErrorKind, Inputs, Normalization, Options, Reduction, Targets, backward, forward, forward_backward,
};
use ndarray::{ArrayD, Axis, Dimension, IxDyn, arr1, arr2};

fn sum(options: Options) -> Options {
    Options { reduction: Reduction::Sum, ..options }
}

fn wave(shape: &[usize], scale: f64) -> ArrayD<f64> {
    let mut i = 0.0;
    ArrayD::from_shape_simple_fn(IxDyn(shape), || {
        i += 1.0;
        (i * 0.618_033_988_749_f64).fract() * scale - scale * 0.6
    })
}

/// One anchor, three classes, the object is the second one.
#[test]
fn an_anchor_is_k_binary_losses_and_alpha_tells_positives_from_negatives() {
    let p = [0.1f64, 0.6, 0.3];
    let logits = arr2(&[p.map(|p| (p / (1.0 - p)).ln())]).into_dyn();
    let targets = arr1(&[1i64]).into_dyn();
    let options = Options { alpha: 0.75, reduction: Reduction::None, ..Options::default() };
    let loss = forward(&options, &Inputs::new(logits.view(), Targets::I64(targets.view()))).unwrap();
    let expected = [
        0.25 * 0.1f64.powi(2) * -(0.9f64.ln()),
        0.75 * 0.4f64.powi(2) * -(0.6f64.ln()),
        0.25 * 0.3f64.powi(2) * -(0.7f64.ln()),
    ];
    for (got, want) in loss.iter().zip(expected) {
        assert!((got - want).abs() < 1e-15);
    }
    // The popular version keeps the second term alone and scales everything: alpha then balances nothing.
    let ratio = |alpha: f64| {
        let loss =
            forward(&Options { alpha, ..options.clone() }, &Inputs::new(logits.view(), Targets::I64(targets.view())));
        let loss = loss.unwrap();
        loss[[0, 1]] / loss[[0, 0]]
    };
    assert!((ratio(0.75) / ratio(0.25) - 9.0).abs() < 1e-12);
}

#[test]
fn background_is_an_all_zero_row_and_ignored_rows_are_nowhere() {
    let mut logits = wave(&[4, 3], 6.0);
    logits.index_axis_mut(Axis(0), 2).fill(f64::NAN);
    let targets = arr1(&[0i64, 3, -1, 2]).into_dyn();
    let options = Options { ignore_index: Some(-1), ..Options::default() };
    let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
    let (total, grad) = forward_backward(&sum(options.clone()), &inputs, None).unwrap();

    let kept = logits.select(Axis(0), &[0, 1, 3]);
    let dense = arr2(&[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).into_dyn();
    let kept_inputs = Inputs::new(kept.view(), Targets::Dense(dense.view()));
    let (expected, expected_grad) = forward_backward(&sum(Options::default()), &kept_inputs, None).unwrap();
    assert_eq!(total.sum(), expected.sum());
    assert_eq!(grad.select(Axis(0), &[0, 1, 3]), expected_grad);
    assert!(grad.index_axis(Axis(0), 2).iter().all(|&g| g == 0.0));

    for (normalization, divisor) in [
        (Normalization::Elements, 9.0),
        (Normalization::Rows, 3.0),
        (Normalization::Positives, 2.0),
        (Normalization::Weights, 9.0),
    ] {
        let mean = forward(&Options { normalization, ..options.clone() }, &inputs).unwrap();
        assert_eq!(mean.sum(), total.sum() / divisor, "{normalization:?}");
    }
}

#[test]
fn gradients_match_finite_differences() {
    let h = 1e-5;
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for gamma in [0.0, 0.5, 1.0, 2.0, 3.5] {
            for soft in [false, true] {
                let logits = wave(&[3, 4], 8.0);
                let indices = arr1(&[2i64, 0, 3]).into_dyn();
                let distribution = wave(&[3, 4], 0.2).mapv(|v| v + 0.2);
                let class_alpha = arr1(&[0.2, 0.4, 0.6, 0.8]).into_dyn();
                let weight = if activation == Activation::Sigmoid { wave(&[3, 1], 3.0) } else { wave(&[3], 3.0) };
                let options =
                    Options { activation, gamma, normalization: Normalization::Positives, ..Options::default() };
                let loss_of = |logits: &ArrayD<f64>, grad: bool| {
                    let targets = if soft { Targets::Dense(distribution.view()) } else { Targets::I64(indices.view()) };
                    let inputs = Inputs {
                        class_alpha: Some(class_alpha.view()),
                        weight: Some(weight.view()),
                        normalizer: Some(1.7),
                        ..Inputs::new(logits.view(), targets)
                    };
                    if grad { backward(&options, &inputs, None) } else { forward(&options, &inputs) }.unwrap()
                };
                let grad = loss_of(&logits, true);
                for index in ndarray::indices(logits.raw_dim()) {
                    let moved = |d: f64| {
                        let mut logits = logits.clone();
                        logits[&index] += d;
                        loss_of(&logits, false).sum()
                    };
                    let difference = (moved(h) - moved(-h)) / (2.0 * h);
                    assert!(
                        (difference - grad[&index]).abs() < 1e-8,
                        "{activation:?} gamma {gamma} soft {soft}: {difference} {}",
                        grad[&index]
                    );
                }
            }
        }
    }
}

#[test]
fn fused_is_forward_and_backward() {
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
            let logits = wave(&[700, 9], 20.0);
            let targets = ArrayD::from_shape_fn(IxDyn(&[700]), |i| (i[0] % 9) as i32);
            let options = Options { activation, reduction, ..Options::default() };
            let inputs = Inputs::new(logits.view(), Targets::I32(targets.view()));
            let loss = forward(&options, &inputs).unwrap();
            let grad_loss = loss.mapv(|v| 1.0 + v);
            let grad = backward(&options, &inputs, Some(grad_loss.view())).unwrap();
            assert_eq!(forward_backward(&options, &inputs, Some(grad_loss.view())).unwrap(), (loss, grad));
        }
    }
}

#[test]
fn an_index_and_its_one_hot_row_are_the_same() {
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for gamma in [0.5, 2.0] {
            let logits = wave(&[100, 6], 50.0).mapv(|v| v as f32);
            let targets = ArrayD::from_shape_fn(IxDyn(&[100]), |i| (i[0] * 5 % 6) as i64);
            let dense = ArrayD::from_shape_fn(IxDyn(&[100, 6]), |i| if i[0] * 5 % 6 == i[1] { 1.0 } else { 0.0 });
            let options = Options { activation, gamma, reduction: Reduction::None, ..Options::default() };
            let index = forward_backward(&options, &Inputs::new(logits.view(), Targets::I64(targets.view())), None);
            let dense = forward_backward(&options, &Inputs::new(logits.view(), Targets::Dense(dense.view())), None);
            assert_eq!(index.unwrap(), dense.unwrap(), "{activation:?}");
        }
    }
}

#[test]
fn nan_goes_in_and_comes_out() {
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for classes in [1, 2, 70] {
            for at in [0, classes - 1] {
                let mut logits = wave(&[2, classes], 5.0);
                logits[[1, at]] = f64::NAN;
                let targets = arr1(&[0i64, 0]).into_dyn();
                let options = Options { activation, ..Options::default() };
                let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
                let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
                assert!(loss.sum().is_nan() && grad[[1, at]].is_nan(), "{activation:?} {classes} {at}");
                assert!(grad.index_axis(Axis(0), 0).iter().all(|g| g.is_finite()));
            }
        }
    }
}

/// Terms of both signs make a gradient: an infinite factor must not reach them before they are added up.
#[test]
fn what_is_divided_by_zero_has_the_sign_of_the_gradient() {
    for (classes, gamma) in [(4, 2.0), (40, 0.5), (5000, 2.0)] {
        let logits = wave(&[3, classes], 9.0);
        let mut soft = wave(&[3, classes], 1.0).mapv(f64::abs);
        soft.index_axis_mut(Axis(0), 2).fill(0.0); // a row without a gradient: 0 / 0
        let own = ArrayD::from_shape_fn(IxDyn(&[3]), |i| if i[0] == 1 { -1 } else { (i[0] * 7 % classes) as i64 });
        for dense in [true, false] {
            for reduction in [Reduction::None, Reduction::Sum, Reduction::Mean] {
                let options = Options {
                    activation: Activation::Softmax,
                    alpha: -1.0,
                    gamma,
                    reduction,
                    ignore_index: (!dense).then_some(-1),
                    ..Options::default()
                };
                let run = |normalizer: Option<f64>, weight: f64, incoming: f64| {
                    let targets = if dense { Targets::Dense(soft.view()) } else { Targets::I64(own.view()) };
                    let weight = ArrayD::from_elem(IxDyn(&[3]), weight);
                    let inputs =
                        Inputs { normalizer, weight: Some(weight.view()), ..Inputs::new(logits.view(), targets) };
                    let shape: &[usize] = if reduction == Reduction::None { &[3] } else { &[] };
                    let incoming = ArrayD::from_elem(IxDyn(shape), incoming);
                    forward_backward(&options, &inputs, Some(incoming.view())).unwrap()
                };
                let (loss, grad) = run(None, 1.0, 1.0);
                let divided = |values: &ArrayD<f64>| values.mapv(|value| value / 0.0);
                let ignored = |row: usize| !dense && row == 1;
                let same = |got: ArrayD<f64>, expected: ArrayD<f64>| {
                    for ((index, got), expected) in got.indexed_iter().zip(expected) {
                        let expected = if index.ndim() > 0 && ignored(index[0]) { 0.0 } else { expected };
                        let agree = *got == expected || (got.is_nan() && expected.is_nan());
                        assert!(agree, "{options:?} dense {dense} at {index:?}: {got}, expected {expected}");
                    }
                };
                let (loss_by_zero, grad_by_zero) = run(Some(0.0), 1.0, 1.0);
                same(loss_by_zero, divided(&loss));
                same(grad_by_zero, divided(&grad));
                same(run(None, f64::INFINITY, 1.0).1, divided(&grad));
                same(run(None, 1.0, f64::NEG_INFINITY).1, divided(&grad.mapv(|value| -value)));
            }
        }
    }
}

#[test]
fn empty_inputs_give_zero() {
    for activation in [Activation::Sigmoid, Activation::Softmax] {
        for shape in [[0, 3], [3, 0], [0, 0]] {
            for reduction in [Reduction::Sum, Reduction::Mean] {
                for normalization in
                    [Normalization::Elements, Normalization::Rows, Normalization::Positives, Normalization::Weights]
                {
                    let logits = ArrayD::<f32>::zeros(IxDyn(&shape));
                    let options = Options { activation, reduction, normalization, ..Options::default() };
                    let inputs = Inputs::new(logits.view(), Targets::Dense(logits.view()));
                    let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
                    assert_eq!(loss.sum(), 0.0);
                    assert!(grad.is_empty());
                }
            }
        }
    }
    // Nothing counted is as good as empty.
    let (logits, targets) = (wave(&[2, 3], 5.0), arr1(&[9i64, 9]).into_dyn());
    let options = Options { ignore_index: Some(9), ..Options::default() };
    let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
    let (loss, grad) = forward_backward(&options, &inputs, None).unwrap();
    assert_eq!((loss.sum(), grad.sum()), (0.0, 0.0));
}

#[test]
fn an_output_that_no_memory_holds_is_an_error() {
    let (logit, target) = (ArrayD::from_elem(IxDyn(&[1, 1]), 0.5f32), ArrayD::from_elem(IxDyn(&[1]), 0i64));
    let logits = logit.broadcast(IxDyn(&[1 << 46, 1])).unwrap();
    let targets = target.broadcast(IxDyn(&[1 << 46])).unwrap();
    let inputs = Inputs::new(logits, Targets::I64(targets));
    let unreduced = Options { reduction: Reduction::None, ..Options::default() };
    let errors = [
        forward(&unreduced, &inputs).unwrap_err(),
        backward(&Options::default(), &inputs, None).unwrap_err(),
        forward_backward(&unreduced, &inputs, None).unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.kind(), error.message()), (ErrorKind::OutOfMemory, "memory could not be had"));
    }
}

#[test]
fn errors_name_the_argument() {
    let (logits, targets) = (wave(&[2, 3], 5.0), arr1(&[0i64, 7]).into_dyn());
    let inputs = Inputs::new(logits.view(), Targets::I64(targets.view()));
    let message = |options: Options| forward(&options, &inputs).unwrap_err().to_string();
    assert!(message(Options::default()).contains("class index 7 at row 1"));
    assert!(message(Options { gamma: -1.0, ..Options::default() }).contains("gamma"));
    assert!(message(Options { alpha: f64::NAN, ..Options::default() }).contains("alpha"));
    assert!(message(Options { axis: 2, ..Options::default() }).contains("axis"));
}
