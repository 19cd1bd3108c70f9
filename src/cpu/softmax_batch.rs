//! What becomes of up to sixteen rows that go together.

use std::ops::Range;

use crate::math::real::Real;
use crate::math::softmax::{Row, Term};

use super::chunks::LANES;
use super::rows::{Ahead, Block, Lanes, TILE, Tile, row_offsets};
use super::scratch::Scratch;
use super::softmax::{Plan, width};
use super::softmax_loops::{ManyTerms, MaxLoop, Parts, PowerLoop, RowLoop, Rows, ScaleLoop, Shifts, Sums, TermLoop};
use super::storage::Storage;
use super::targets::{Indices, Label};

/// Scratch memory of a thread.
pub(super) struct Tiles<R: Real> {
    logits: Tile<R>,
    targets: Tile<R>,
    powers: Tile<R>,
    grad: Tile<R>,
    max_parts: Scratch<Lanes<R>, LANES>,
    sum_parts: Scratch<Parts<R>, LANES>,
    batch: Batch<R>,
}

impl<R: Real> Tiles<R> {
    // Inlined, or it would be copied.
    #[inline(always)]
    pub(super) fn new() -> Self {
        Self {
            logits: Tile::new(),
            targets: Tile::new(),
            powers: Tile::new(),
            grad: Tile::new(),
            max_parts: Scratch::new(),
            sum_parts: Scratch::new(),
            batch: Batch::default(),
        }
    }

    /// Of the rows that were computed last.
    pub(super) fn losses(&self) -> &Lanes<f64> {
        &self.batch.losses
    }
}

/// Rows that go together: up to sixteen, or none.
pub(super) struct Blocks<'a, S> {
    count: usize,
    logits: Block<'a, S>,
    dense: Option<Block<'a, S>>,
}

/// What is known about rows that go together. It stays from one batch to the next, since clearing it costs.
#[derive(Default)]
struct Batch<R: Real> {
    max: Lanes<R>,
    shifts: Shifts<R>,
    sums: Sums,
    rows: Rows,
    weight: Lanes<f64>,
    upstream: Lanes<f64>,
    /// What the finished loss and gradient are multiplied by: 1, or what [`put_last`] took out of the above.
    last: Lanes<(f64, f64)>,
    losses: Lanes<f64>,
    slopes: Lanes<f64>,
    /// For class indices, a row's own class, none where the row is ignored, its logit, coefficient and term, and the
    /// gradient there.
    class: Lanes<Option<usize>>,
    x: Lanes<f64>,
    c: Lanes<f64>,
    terms: ManyTerms,
    own: Lanes<f64>,
}

impl<S: Storage> Plan<S> {
    /// The classes in stretches that fit into a tile: a single one unless a row is longer than that.
    fn stretches(&self) -> impl Iterator<Item = Range<usize>> + use<S> {
        let classes = self.classes;
        (0..classes).step_by(TILE).map(move |k| k..classes.min(k + TILE))
    }

    /// The rows that go together from `first` on.
    pub(super) fn blocks(&self, first: usize, end: usize) -> Blocks<'_, S> {
        let count = self.rows.min(end - first);
        Blocks {
            count,
            logits: self.logits.block(first, count),
            dense: self.dense.as_ref().map(|dense| dense.block(first, count)),
        }
    }

    /// Computes some rows, `first` being the first of them. `next` will be needed soon.
    pub(super) fn run(&self, first: usize, blocks: &Blocks<S>, next: &Blocks<S>, tiles: &mut Tiles<S::Real>) {
        let Blocks { count, logits, dense } = blocks;
        let (count, dense) = (*count, dense.as_ref());
        let ahead = &match self.classes <= TILE {
            true => (next.logits.ahead(), next.dense.as_ref().map(Block::ahead)),
            false => (Ahead::NOTHING, None),
        };
        tiles.batch.max = [-S::Real::INFINITY; LANES];
        tiles.batch.sums = Sums::default();
        for stretch in self.stretches() {
            let rows = &logits.load(&stretch, &mut tiles.logits)[..count];
            let Batch { max, shifts, .. } = &mut tiles.batch;
            self.isa.run(MaxLoop { rows, parts: tiles.max_parts.get(count), max, shifts });
            if self.classes <= TILE {
                self.powers(rows, ahead, &mut tiles.sum_parts, &mut tiles.powers, &mut tiles.batch);
            }
        }
        if self.classes > TILE {
            for stretch in self.stretches() {
                let rows = &logits.load(&stretch, &mut tiles.logits)[..count];
                self.powers(rows, ahead, &mut tiles.sum_parts, &mut tiles.powers, &mut tiles.batch);
            }
        }
        let batch = &mut tiles.batch;
        self.isa.run(RowLoop { shifts: &batch.shifts, sums: &batch.sums, rows: &mut batch.rows });
        batch.weight = [self.factors.loss; LANES];
        if let Some(tensor) = &self.weight {
            let values = tensor.load(first, count);
            batch.weight.iter_mut().zip(values).for_each(|(w, v)| *w *= v);
        }
        batch.upstream = match &self.grad_loss {
            Some(tensor) => tensor.load(first, count),
            None => [if self.each { 1.0 } else { self.factors.grad }; LANES],
        };
        for ((weight, upstream), last) in batch.weight.iter_mut().zip(&mut batch.upstream).zip(&mut batch.last) {
            let (of_weight, of_upstream) = (put_last(weight), put_last(upstream));
            *last = (of_weight, of_weight * of_upstream);
        }
        match (&self.indices, dense) {
            (Some((indices, walk)), _) => {
                self.index_terms(batch, logits, indices, &row_offsets(walk, first, count)[..count])
            }
            (None, Some(dense)) => self.dense_terms(logits, dense, count, tiles),
            (None, None) => {}
        }
        if let Some(grad) = &self.grad {
            self.write_gradient(logits, dense, &grad.block(first, count), count, tiles);
        }
        if let Some(tensor) = &self.loss {
            let rounded = tiles.batch.losses.map(|loss| S::Real::from_f64(loss).canonical());
            tensor.memory.copy_from(&mut tensor.walk.at(first), &rounded[..count]);
        }
    }

    fn powers(
        &self,
        rows: &[&[S::Real]],
        ahead: &(Ahead, Option<Ahead>),
        parts: &mut Scratch<Parts<S::Real>, LANES>,
        powers: &mut Tile<S::Real>,
        batch: &mut Batch<S::Real>,
    ) {
        let width = width(rows[0].len());
        let (parts, powers) = (parts.get(rows.len()), powers.get(rows.len() * width));
        let Batch { shifts, sums, .. } = batch;
        let (ahead, targets_ahead) = (&ahead.0, ahead.1.as_ref());
        self.isa.run(PowerLoop { rows, shifts, powers, width, parts, sums, ahead, targets_ahead });
    }

    fn terms(&self, rows: &Rows, x: &Lanes<f64>, c: &Lanes<f64>, terms: &mut ManyTerms) {
        let gamma = &self.gamma;
        if gamma.is_square() {
            self.isa.run(TermLoop::<true> { rows, x, c, gamma, terms });
        } else {
            self.isa.run(TermLoop::<false> { rows, x, c, gamma, terms });
        }
    }

    /// One class for each row.
    fn index_terms(&self, batch: &mut Batch<S::Real>, logits: &Block<S>, indices: &Indices, offsets: &[isize]) {
        let Batch { rows, weight, upstream, last, losses, slopes, own, class, x, c, terms, .. } = batch;
        for (lane, &offset) in offsets.iter().enumerate() {
            class[lane] = match indices.label(offset) {
                Label::Class(y) => {
                    x[lane] = logits.at(lane, y).to_f64();
                    c[lane] = self.alpha_of(y) * weight[lane];
                    Some(y)
                }
                _ => None,
            };
        }
        self.terms(rows, x, c, terms);
        for lane in 0..offsets.len() {
            let term: Term = terms.get(lane);
            let counted = class[lane].is_some();
            losses[lane] = if counted { term.loss * last[lane].0 } else { 0.0 };
            slopes[lane] = term.slope * upstream[lane];
            // As a dense target has it, the sign of a zero included.
            own[lane] = 0.0 - slopes[lane] * term.others * last[lane].1;
        }
    }

    /// Every class with a target that is not zero.
    fn dense_terms(&self, logits: &Block<S>, dense: &Block<S>, count: usize, tiles: &mut Tiles<S::Real>) {
        let Batch { rows, weight, upstream, last, losses, slopes, .. } = &mut tiles.batch;
        *losses = std::array::from_fn(|lane| rows.get::<Row>(lane).zero());
        *slopes = [0.0; LANES];
        for stretch in self.stretches() {
            let x = logits.load(&stretch, &mut tiles.logits);
            let t = dense.load(&stretch, &mut tiles.targets);
            self.each_target(&x[..count], &t[..count], stretch.start, rows, weight, |lane, _, term| {
                losses[lane] += term.loss;
                slopes[lane] += term.slope * upstream[lane];
            });
        }
        losses.iter_mut().zip(last).for_each(|(loss, last)| *loss *= last.0);
    }

    /// Calls `done` for each target that is not zero, row by row, class by class.
    fn each_target(
        &self,
        x: &[&[S::Real]],
        t: &[&[S::Real]],
        first_class: usize,
        rows: &Rows,
        weight: &Lanes<f64>,
        mut done: impl FnMut(usize, usize, &Term),
    ) {
        let mut terms = Terms::new();
        for (lane, (x, t)) in x.iter().zip(t).enumerate() {
            for (k, (x, t)) in x.chunks(LANES).zip(t.chunks(LANES)).enumerate() {
                // Most are zero throughout.
                if t.iter().fold(false, |any, &t| any | (t != S::Real::ZERO)) {
                    for (class, (&x, &t)) in (first_class + k * LANES..).zip(x.iter().zip(t)) {
                        if t != S::Real::ZERO {
                            terms.push(lane, class, x, t.to_f64() * self.alpha_of(class) * weight[lane], rows);
                            if terms.count == LANES {
                                terms.run(self, &mut done);
                            }
                        }
                    }
                }
            }
        }
        terms.run(self, done);
    }

    fn write_gradient(
        &self,
        logits: &Block<S>,
        dense: Option<&Block<S>>,
        grad: &Block<S>,
        count: usize,
        tiles: &mut Tiles<S::Real>,
    ) {
        for stretch in self.stretches() {
            if self.classes > TILE {
                let rows = logits.load(&stretch, &mut tiles.logits);
                let nothing = (Ahead::NOTHING, None);
                self.powers(&rows[..count], &nothing, &mut tiles.sum_parts, &mut tiles.powers, &mut tiles.batch);
            }
            let batch = &tiles.batch;
            let (row, width) = (stretch.len(), width(stretch.len()));
            let powers = tiles.powers.get(count * width);
            // Targets are still to be compared with logits where the gradient will be.
            let straight = dense.is_none() || !self.in_place;
            let mut stored = true;
            for lane in 0..count {
                let out = match grad.direct(lane, &stretch).filter(|_| straight) {
                    Some(memory) => memory,
                    None => {
                        stored = false;
                        &mut tiles.grad.get(count * row)[lane * row..][..row]
                    }
                };
                if dense.is_none() && batch.class[lane].is_none() {
                    out.fill(S::Real::ZERO);
                    continue;
                }
                let factor = batch.rows.get::<Row>(lane).scale(batch.slopes[lane] * batch.last[lane].1);
                self.isa.run(ScaleLoop { powers: &powers[lane * width..][..width], factor, out });
                if let Some(y) = batch.class[lane].filter(|y| stretch.contains(y)) {
                    out[y - stretch.start] = S::Real::from_f64(batch.own[lane]).canonical();
                }
            }
            if let Some(dense) = dense {
                let x = logits.load(&stretch, &mut tiles.logits);
                let t = dense.load(&stretch, &mut tiles.targets);
                let out = tiles.grad.get(if stored { 0 } else { count * row });
                self.each_target(
                    &x[..count],
                    &t[..count],
                    stretch.start,
                    &batch.rows,
                    &batch.weight,
                    |lane, k, term| {
                        let q = term.slope * batch.upstream[lane];
                        let value = term.own * (batch.slopes[lane] - q) - q * term.others;
                        let value = S::Real::from_f64(value * batch.last[lane].1).canonical();
                        if stored {
                            grad.set(lane, k, value);
                        } else {
                            out[lane * row + (k - stretch.start)] = value;
                        }
                    },
                );
            }
            if !stored {
                grad.store(&stretch, tiles.grad.get(count * row));
            }
        }
    }
}

/// Takes what is not finite (the reciprocal of a normalizer of 0) out of a coefficient: as a factor of each term it
/// would leave infinities of both signs to be added up, where the sum of the terms times it has a sign.
fn put_last(coefficient: &mut f64) -> f64 {
    if coefficient.is_finite() { 1.0 } else { std::mem::replace(coefficient, 1.0) }
}

/// Up to sixteen classes of any rows whose terms are computed together.
struct Terms {
    count: usize,
    places: Lanes<(usize, usize)>,
    rows: Rows,
    x: Lanes<f64>,
    c: Lanes<f64>,
}

impl Terms {
    fn new() -> Self {
        Self { count: 0, places: [(0, 0); LANES], rows: Rows::default(), x: [0.0; LANES], c: [0.0; LANES] }
    }

    #[inline]
    fn push<R: Real>(&mut self, lane: usize, class: usize, x: R, c: f64, rows: &Rows) {
        let i = self.count;
        self.places[i] = (lane, class);
        self.rows.set(i, rows.get::<Row>(lane));
        self.x[i] = x.to_f64();
        self.c[i] = c;
        self.count += 1;
    }

    /// Computes them, and starts again with none.
    fn run<S: Storage>(&mut self, plan: &Plan<S>, mut done: impl FnMut(usize, usize, &Term)) {
        if self.count == 0 {
            return;
        }
        let mut terms = ManyTerms::default();
        plan.terms(&self.rows, &self.x, &self.c, &mut terms);
        for (i, &(lane, class)) in self.places[..self.count].iter().enumerate() {
            done(lane, class, &terms.get(i));
        }
        self.count = 0;
    }
}
