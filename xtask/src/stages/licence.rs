//! Evaluates SPDX licence expressions.

/// True if the licences in `allowed` meet the terms. `OR` is a choice. `AND` requires both and
/// binds tighter. `/` is an old `OR`. A licence with an exception (`X WITH y`) is one name.
/// Anything malformed is not allowed.
pub fn allowed(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    reader.any() == Some(true) && reader.words.is_empty()
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

/// `None` means malformed.
impl Reader<'_> {
    fn any(&mut self) -> Option<bool> {
        let mut found = self.all()?;
        while self.take("OR") {
            found |= self.all()?;
        }
        Some(found)
    }

    fn all(&mut self) -> Option<bool> {
        let mut found = self.one()?;
        while self.take("AND") {
            found &= self.one()?;
        }
        Some(found)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let found = self.any()?;
            return self.take(")").then_some(found);
        }
        let mut name = self.next()?.to_owned();
        if self.take("WITH") {
            name = format!("{name} WITH {}", self.next()?);
        }
        Some(self.allowed.contains(&name))
    }

    fn take(&mut self, word: &str) -> bool {
        let taken = self.words.first() == Some(&word);
        if taken {
            self.words = &self.words[1..];
        }
        taken
    }

    fn next(&mut self) -> Option<&str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        (!["OR", "AND", "WITH", "(", ")"].contains(first)).then_some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(expression: &str) -> bool {
        let list = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"];
        allowed(expression, &list.map(str::to_owned))
    }

    #[test]
    fn one_choice_is_enough_and_every_duty_counts() {
        assert!(ok("MIT"));
        assert!(ok("MIT OR GPL-3.0-only"));
        assert!(ok("GPL-3.0-only/MIT"));
        assert!(ok("(MIT OR GPL-3.0-only) AND Unicode-3.0"));
        assert!(ok("Apache-2.0 WITH LLVM-exception OR GPL-3.0-only"));
        assert!(!ok("GPL-3.0-only"));
        assert!(!ok("MIT AND GPL-3.0-only"));
        assert!(!ok("(MIT OR Apache-2.0) AND GPL-3.0-only"));
        assert!(!ok("MIT WITH odd-exception"));
        assert!(ok("GPL-3.0-only AND Unicode-3.0 OR MIT"), "AND binds tighter than OR");
    }

    #[test]
    fn what_can_not_be_read_is_not_allowed() {
        for bad in ["", "MIT OR", "OR MIT", "(MIT", "MIT)", "MIT MIT", "MIT WITH", "()"] {
            assert!(!ok(bad), "{bad}");
        }
    }
}
