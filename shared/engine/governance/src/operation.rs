//! Operations, and the trust level that each of them needs.

use serde_json::{Map, Value};

use watchbill_domain::names;

names!(
    /// How far an agent is trusted. Each level includes the ones before.
    Level, "level", [
        SandboxOnly = "sandbox_only",
        StagingAccess = "staging_access",
        ProdLowRisk = "prod_low_risk",
        ProdFullAccess = "prod_full_access",
    ]
);

names!(
    /// The kind of operation that the authorization check decides on.
    Operation, "operation", [
        DeploySandbox = "deploy_sandbox",
        MonitorSystem = "monitor_system",
        ManageAlerts = "manage_alerts",
        InvestigateIssues = "investigate_issues",
        RunTests = "run_tests",
        AnswerQuestion = "answer_question",
        CreatePr = "create_pr",
        DeployStaging = "deploy_staging",
        ExecuteTask = "execute_task",
        Restart = "restart",
        Scale = "scale",
        Update = "update",
        DeployProdLowRisk = "deploy_prod_low_risk",
        RestartProd = "restart_prod",
        TriggerBackup = "trigger_backup",
        DeployProd = "deploy_prod",
        ScaleProd = "scale_prod",
        UpdateProd = "update_prod",
        RollbackProd = "rollback_prod",
    ]
);

impl Operation {
    /// The lowest level at which an agent may do it.
    pub fn needs(self) -> Level {
        use Operation::*;
        match self {
            DeploySandbox | MonitorSystem | ManageAlerts | InvestigateIssues | RunTests
            | AnswerQuestion | CreatePr => Level::SandboxOnly,
            DeployStaging | ExecuteTask | Restart | Scale | Update => Level::StagingAccess,
            DeployProdLowRisk | RestartProd | TriggerBackup => Level::ProdLowRisk,
            DeployProd | ScaleProd | UpdateProd | RollbackProd => Level::ProdFullAccess,
        }
    }

    /// Whether it can change anything other than Watchbill's own records.
    pub fn mutates(self) -> bool {
        use Operation::*;
        !matches!(
            self,
            MonitorSystem | ManageAlerts | InvestigateIssues | RunTests | AnswerQuestion
        )
    }
}

/// Whether a task declares that it changes only documentation or user interface.
pub fn is_low_risk(payload: &Map<String, Value>) -> bool {
    matches!(payload.get("change").and_then(Value::as_str), Some("docs" | "ui"))
}

impl Level {
    /// The operations that this level and those below authorize.
    pub fn operations(self) -> impl Iterator<Item = Operation> {
        Operation::ALL.iter().copied().filter(move |operation| operation.needs() <= self)
    }

    pub fn next(self) -> Option<Self> {
        Self::ALL.iter().copied().find(|level| *level > self)
    }
}
