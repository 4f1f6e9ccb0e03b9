//! Replaces parts of a text, from front to back.

use std::borrow::Cow;

use super::HIDDEN;

pub(super) struct TextEdit<'a> {
    text: &'a str,
    out: String,
    done: usize,
}

impl<'a> TextEdit<'a> {
    pub fn of(text: &'a str) -> Self {
        Self { text, out: String::new(), done: 0 }
    }

    /// The text was copied or hidden up to here.
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

/// The last character boundary of `text` at or before `at`.
pub(super) fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The first character boundary of `text` at or after `at`, or its end.
pub(super) fn ceil_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at += 1;
    }
    at
}
