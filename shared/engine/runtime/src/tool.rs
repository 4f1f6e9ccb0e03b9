//! Tools that are registered, not matched: what is known of each ([`ToolSpec`]) with what it does.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use watchbill_domain::{Fields, Refusal};
use watchbill_governance::{BadToolSpec, ToolSpec, ToolSpecs};

use crate::ooda::Observation;
use crate::run::{Run, RunEnd};

/// Something that a plan can call.
#[async_trait]
pub trait Tool: Send + Sync {
    fn spec(&self) -> &'static ToolSpec;

    /// `seen`: what the run has observed already. A refusal is for the person who made the task.
    async fn run(
        &self,
        run: &Run,
        seen: &Observation,
        arguments: &Map<String, Value>,
    ) -> Result<RunEnd, Refusal>;
}

/// Arguments of a tool as a type: read from JSON, and written back in their one form.
pub trait Arguments: Sized + Send + Sync + 'static {
    /// Names the argument that is missing or wrong, with its value.
    fn parse(fields: Fields<'_>) -> Result<Self, Refusal>;

    /// As [`Arguments::parse`] reads it back.
    fn to_map(&self) -> Map<String, Value>;
}

/// [`ToolSpec::normalize`] of a tool with typed arguments.
pub fn normalize<A: Arguments>(fields: Fields<'_>) -> Result<Map<String, Value>, Refusal> {
    Ok(A::parse(fields)?.to_map())
}

/// What a tool with typed arguments does. [`tool`] makes a [`Tool`] of it.
#[async_trait]
pub trait TypedTool<A: Arguments>: Send + Sync {
    async fn run(&self, run: &Run, seen: &Observation, asked: &A) -> RunEnd;
}

/// A tool from its spec and what it does.
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
    ) -> Result<RunEnd, Refusal> {
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
