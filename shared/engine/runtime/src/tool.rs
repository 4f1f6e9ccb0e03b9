//! Registered tools: the specification of each ([`ToolSpec`]) and its implementation.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Fields, Refusal};
use watchbill_governance::{BadToolSpec, ToolSpec, ToolSpecs};

use crate::ooda::Observation;
use crate::run::{Run, RunOutcome};

/// A tool that a plan can call.
#[async_trait]
pub trait Tool: Send + Sync {
    fn spec(&self) -> &'static ToolSpec;

    /// `seen`: the run's observations. A refusal is for the person who created the task.
    async fn run(
        &self,
        run: &Run,
        seen: &Observation,
        arguments: &Map<String, Value>,
    ) -> Result<RunOutcome, Refusal>;
}

/// Typed arguments of a tool: read from JSON, and written back in canonical form.
pub trait Arguments: Sized + Send + Sync + 'static {
    /// The error names the argument that is missing or wrong, with its value.
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal>;

    /// In the form that [`Arguments::parse`] reads back.
    fn to_map(&self) -> Map<String, Value>;
}

/// [`ToolSpec::normalize`] of a tool with typed arguments.
pub fn normalize<A: Arguments>(fields: Fields<'_>) -> Result<Map<String, Value>, Refusal> {
    Ok(A::parse(fields)?.to_map())
}

/// Implementation of a tool with typed arguments. [`tool`] makes a [`Tool`] of it.
#[async_trait]
pub trait TypedTool<A: Arguments>: Send + Sync {
    async fn run(&self, run: &Run, seen: &Observation, asked: &A) -> RunOutcome;
}

/// A tool made of its specification and its implementation.
pub fn tool<A: Arguments>(
    spec: &'static ToolSpec,
    works: impl TypedTool<A> + 'static,
) -> Arc<dyn Tool> {
    Arc::new(Typed { spec, works, arguments: PhantomData })
}

struct Typed<A, W> {
    spec: &'static ToolSpec,
    works: W,
    arguments: PhantomData<fn() -> A>,
}

#[async_trait]
impl<A: Arguments, W: TypedTool<A>> Tool for Typed<A, W> {
    fn spec(&self) -> &'static ToolSpec {
        self.spec
    }

    async fn run(
        &self,
        run: &Run,
        seen: &Observation,
        arguments: &Map<String, Value>,
    ) -> Result<RunOutcome, Refusal> {
        let asked = A::parse(Fields::payload(arguments))?;
        Ok(self.works.run(run, seen, &asked).await)
    }
}

/// The tools of one agent.
#[derive(Clone, Default)]
pub struct Tools(BTreeMap<&'static str, Arc<dyn Tool>>);

impl Tools {
    /// Refuses what [`ToolSpecs::new`] refuses.
    pub fn new(tools: Vec<Arc<dyn Tool>>) -> Result<Self, BadToolSpec> {
        ToolSpecs::new(tools.iter().map(|tool| tool.spec()))?;
        Ok(Self(tools.into_iter().map(|tool| (tool.spec().name, tool)).collect()))
    }

    pub fn get(&self, name: &str) -> Option<&Arc<dyn Tool>> {
        self.0.get(name)
    }

    pub fn specs(&self) -> impl Iterator<Item = &'static ToolSpec> + '_ {
        self.0.values().map(|tool| tool.spec())
    }
}
