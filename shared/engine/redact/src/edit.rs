//! A text of which parts are hidden, from the front to the back.

use std::borrow::Cow;

use super::HIDDEN;

pub(super) struct Edit<'a> {
    text: &'a str,
    out: String,
    done: usize,
}

impl<'a> Edit<'a> {
    pub fn of(text: &'a str) -> Self {
        Self { text, out: String::new(), done: 0 }
    }

    /// Up to here the text was copied or hidden.
    pub fn done(&self) -> usize {
        self.done
    }

    pub fn hide(&mut self, from: usize, to: usize) {
        self.put(from, to, HIDDEN);
    }

    pub fn put(&mut self, from: usize, to: usize, instead: &str) {
        debug_assert!(self.done <= from && from <= to, "parts are hidden in their order");
        if &self.text[from..to] == instead {
            return;
        }
        self.out.push_str(&self.text[self.done..from]);
        self.out.push_str(instead);
        self.done = to;
    }

    pub fn finish(mut self) -> Cow<'a, str> {
        if self.done == 0 {
            return Cow::Borrowed(self.text);
        }
        self.out.push_str(&self.text[self.done..]);
        Cow::Owned(self.out)
    }
}

/// The last place in `text` at or before `at` where a character begins.
pub(super) fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first place in `text` at or after `at` where a character begins, or its end.
pub(super) fn ceil_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
