//! Aligned tables that fit the terminal.

use super::out::Style;
use super::text::{fit, width};

/// Blanks between columns.
const GAP: usize = 2;
/// Spare columns are dropped before another column is cut below this width.
const COMFORTABLE: usize = 20;
/// No column is cut below this width; the line is then too long.
const NARROWEST: usize = 12;

pub struct Column {
    pub head: &'static str,
    /// Whether it may be cut to fit. All others are shown whole, so that ids can be copied.
    pub cuts: bool,
    /// Dropped first if highest; 0 is never dropped.
    pub spare: u8,
}

impl Column {
    pub const fn whole(head: &'static str) -> Self {
        Self { head, cuts: false, spare: 0 }
    }

    pub const fn spare(head: &'static str, spare: u8) -> Self {
        Self { head, cuts: false, spare }
    }

    pub const fn cuts(head: &'static str) -> Self {
        Self { head, cuts: true, spare: 0 }
    }
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    pub text: String,
    pub style: Style,
}

impl Cell {
    pub fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), style: Style::Plain }
    }
}

pub struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// The lines, head first. Without a `limit` nothing is cut or dropped.
    pub fn lines(&self, limit: Option<usize>, color: bool) -> Vec<String> {
        let widths = self.widths(limit);
        let head: Vec<Cell> =
            self.columns.iter().map(|c| Cell::styled(c.head, Style::Dim)).collect();
        std::iter::once(&head).chain(&self.rows).map(|row| row_line(row, &widths, color)).collect()
    }

    /// Removes the columns that are empty in every row.
    pub fn drop_empty(&mut self) {
        for i in (0..self.columns.len()).rev() {
            if self.rows.iter().all(|row| row.get(i).is_none_or(|cell| cell.text.is_empty())) {
                self.columns.remove(i);
                for row in self.rows.iter_mut().filter(|row| row.len() > i) {
                    row.remove(i);
                }
            }
        }
    }

    /// The width of each column, or `None` for one that is dropped.
    fn widths(&self, limit: Option<usize>) -> Vec<Option<usize>> {
        let natural = |i: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|c| width(&c.text));
            cells.chain([width(self.columns[i].head)]).max().unwrap_or(0)
        };
        let mut widths: Vec<Option<usize>> =
            (0..self.columns.len()).map(|i| Some(natural(i))).collect();
        let Some(limit) = limit else { return widths };
        loop {
            let over = total(&widths).saturating_sub(limit);
            if over == 0 {
                return widths;
            }
            if self.cut(&mut widths, over, COMFORTABLE) {
                return widths;
            }
            let least_needed = (0..widths.len())
                .filter(|&i| widths[i].is_some() && self.columns[i].spare > 0)
                .max_by_key(|&i| self.columns[i].spare);
            match least_needed {
                Some(i) => widths[i] = None,
                None => {
                    if !self.cut(&mut widths, over, NARROWEST) {
                        self.cut_to(&mut widths, NARROWEST);
                    }
                    return widths;
                }
            }
        }
    }

    /// Cuts `over` from the widest column that may be cut. Returns false if less than `least`
    /// would remain.
    fn cut(&self, widths: &mut [Option<usize>], over: usize, least: usize) -> bool {
        let widest = (0..widths.len())
            .filter(|&i| self.columns[i].cuts)
            .max_by_key(|&i| widths[i].unwrap_or(0));
        match widest.map(|i| (i, widths[i].unwrap_or(0))) {
            Some((i, wide)) if wide >= over + least => {
                widths[i] = Some(wide - over);
                true
            }
            _ => false,
        }
    }

    fn cut_to(&self, widths: &mut [Option<usize>], most: usize) {
        for (column, wide) in self.columns.iter().zip(widths) {
            if column.cuts {
                *wide = wide.map(|w| w.min(most));
            }
        }
    }
}

fn total(widths: &[Option<usize>]) -> usize {
    let shown = widths.iter().flatten().count();
    widths.iter().flatten().sum::<usize>() + GAP * shown.saturating_sub(1)
}

fn row_line(row: &[Cell], widths: &[Option<usize>], color: bool) -> String {
    let mut text = String::new();
    let mut owed = 0;
    for (cell, wide) in row.iter().zip(widths) {
        let Some(wide) = *wide else { continue };
        let shown = fit(&cell.text, wide);
        if !shown.is_empty() {
            text.extend(std::iter::repeat_n(' ', owed));
            text.push_str(&cell.style.paint(&shown, color));
            owed = 0;
        }
        owed += wide - width(&shown) + GAP;
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let id = "0199f5a0-0000-7000-8000-000000000001";
        Table {
            columns: vec![
                Column::whole("ID"),
                Column::whole("STATUS"),
                Column::spare("AGENT", 1),
                Column::cuts("TITLE"),
            ],
            rows: vec![
                vec![id.into(), "completed".into(), "ops".into(), "Deploy web to staging".into()],
                vec![id.into(), "failed".into(), "".into(), "Überwache 配置".into()],
            ],
        }
    }

    #[test]
    fn columns_line_up_and_nothing_is_cut_without_a_limit() {
        assert_eq!(
            table().lines(None, false),
            [
                "ID                                    STATUS     AGENT  TITLE",
                "0199f5a0-0000-7000-8000-000000000001  completed  ops    Deploy web to staging",
                "0199f5a0-0000-7000-8000-000000000001  failed            Überwache 配置",
            ]
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_a_little_drops_the_spare_and_never_cuts_an_id() {
        let id = "0199f5a0-0000-7000-8000-000000000001";
        for (columns, expected) in [
            (76, "completed  ops    Deploy web to stagi…"),
            (70, "completed  Deploy web to staging"),
            (64, "completed  Deploy web to…"),
            (20, "completed  Deploy web…"),
        ] {
            assert_eq!(table().lines(Some(columns), false)[1], format!("{id}  {expected}"));
        }
    }

    #[test]
    fn colours_do_not_count_as_width() {
        let mut table = table();
        table.rows[0][1].style = Style::Good;
        let line = &table.lines(None, true)[1];
        assert!(line.contains("\u{1b}[32mcompleted\u{1b}[0m  ops"), "{line}");
    }
}
