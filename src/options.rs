//! The parameters of a focal loss, validated.

use crate::error::{Result, fail};

/// How logits become probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Activation {
    /// K independent binary losses per row: focal loss as published.
    #[default]
    Sigmoid,
    /// One loss per row over K exclusive classes.
    Softmax,
}

/// What becomes of the losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Reduction {
    /// Every loss for itself: the logits' shape (sigmoid) or the rows' (softmax).
    None,
    /// Added up.
    Sum,
    /// The sum divided by what [`Normalization`] says.
    #[default]
    Mean,
}

/// What [`Reduction::Mean`] divides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Normalization {
    /// Losses: K for each counted row (sigmoid), one for each (softmax).
    #[default]
    Elements,
    /// Rows that are not ignored.
    Rows,
    /// Rows of a real class, or the sum of dense targets; never below 1.
    Positives,
    /// The sum of `weight` over what is counted.
    Weights,
}

/// Everything about a loss that is not a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How logits become probabilities.
    pub activation: Activation,
    /// Weight of positives in `[0, 1]`, negatives get `1 - alpha`; below 0: off.
    /// With [`Activation::Softmax`] a plain factor.
    pub alpha: f64,
    /// Focusing exponent, finite and not negative.
    pub gamma: f64,
    /// What becomes of the losses.
    pub reduction: Reduction,
    /// What a mean divides by.
    pub normalization: Normalization,
    /// The class axis; negative counts from the end.
    pub axis: isize,
    /// Rows with this class index count nowhere, whatever their logits are.
    pub ignore_index: Option<i64>,
    /// Rows with this class index have an all-zero target. Default: the number of classes.
    pub background_index: Option<i64>,
    /// At most this many threads at once; 0: as many as the global rayon pool has.
    pub num_threads: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            activation: Activation::default(),
            alpha: 0.25,
            gamma: 2.0,
            reduction: Reduction::default(),
            normalization: Normalization::default(),
            axis: -1,
            ignore_index: None,
            background_index: None,
            num_threads: 0,
        }
    }
}

impl Options {
    /// What can be said without seeing a tensor.
    pub fn validate(&self) -> Result<()> {
        if self.alpha.is_nan() || self.alpha > 1.0 {
            fail!(InvalidArgument, "alpha is {}, but must lie in [0, 1], or below 0 to be off", self.alpha);
        }
        if !(self.gamma >= 0.0 && self.gamma.is_finite()) {
            fail!(InvalidArgument, "gamma is {}, but must be finite and at least 0", self.gamma);
        }
        if let (Activation::Softmax, Some(index)) = (self.activation, self.background_index) {
            fail!(
                InvalidArgument,
                "background_index is {index}, but softmax classes are exclusive: only the sigmoid loss has a background"
            );
        }
        Ok(())
    }

    /// What can be said once targets are known to be dense.
    pub(crate) fn check_dense(&self) -> Result<()> {
        for (name, index) in [("ignore_index", self.ignore_index), ("background_index", self.background_index)] {
            if let Some(index) = index {
                fail!(InvalidArgument, "{name} is {index}, but targets are dense: only class indices can equal it");
            }
        }
        Ok(())
    }
}
