use crate::ApprovalView;

/// An approval for people.
pub fn render_approval(view: &ApprovalView) -> String {
    let plan = serde_json::to_string_pretty(&view.plan).expect("a JSON object can be written");
    format!("{}\n\n{plan}", view.summary)
}
