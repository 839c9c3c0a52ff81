//! An array with a place for each of many things: the standard library gives no default to one of more than 32.

use std::ops::{Deref, DerefMut};

/// `N` places, at first each at its default.
#[derive(Debug, Clone)]
pub(super) struct Each<T, const N: usize>([T; N]);

impl<T: Default, const N: usize> Default for Each<T, N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| T::default()))
    }
}

impl<T, const N: usize> Deref for Each<T, N> {
    type Target = [T; N];

    fn deref(&self) -> &[T; N] {
        &self.0
    }
}

impl<T, const N: usize> DerefMut for Each<T, N> {
    fn deref_mut(&mut self) -> &mut [T; N] {
        &mut self.0
    }
}
