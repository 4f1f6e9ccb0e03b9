//! Role × route × tenant: what each caller gets from every route.
//!
//! To add a route, add its row in `rows`. The tests fail for a route without a row, a row
//! without a route, and a row that requires another role than its route.

mod rows;
mod scene;
mod who;

use std::collections::BTreeSet;

use crate::common::{api, ask};

use rows::{ROWS, Row};
use scene::{MARK, Scene};
use watchbill_api::{Access, ROUTES};
use who::{Home, Who, everyone};

#[tokio::test]
async fn every_route_of_the_document_has_a_row_and_every_row_a_route() {
    let document = ask("GET", "/openapi.json").of(&api()).await.json();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for verb in item.as_object().unwrap().keys() {
            documented.insert(format!("{} {path}", verb.to_uppercase()));
        }
    }
    let rows: BTreeSet<String> = ROWS.iter().map(|row| row.route.to_owned()).collect();
    assert_eq!(rows, documented, "each route of the API needs a row in tests/matrix/rows.rs");
}

#[test]
fn the_table_asks_for_what_the_routes_ask_for() {
    for row in ROWS {
        let mut routes = ROUTES.iter().flat_map(|group| group.iter());
        let route = routes.find(|route| route.name() == row.route).unwrap();
        assert_eq!(row.access, route.access, "{}", row.route);
    }
}

/// The expected status for `who`. Something of another tenant does not exist, whatever the role.
fn expected(row: &Row, who: &Who) -> u16 {
    match (row.access, who.role) {
        (Access::Public | Access::Link, _) => row.ok,
        (_, _) if !who.is_taken => 401,
        (Access::Optional, _) => row.ok,
        (Access::Needs(_), None) => 401,
        (Access::Needs(needed), Some(role)) if !role.includes(needed) => 403,
        (Access::Needs(_), Some(_)) => match who.home {
            Home::Here => row.ok,
            Home::Elsewhere => row.elsewhere,
        },
    }
}

#[tokio::test]
async fn everyone_gets_from_every_route_what_the_table_says() {
    let mut wrong = Vec::new();
    for row in ROWS {
        for who in everyone() {
            if let Err(reason) = check(row, &who).await {
                wrong.push(format!("{} ({}) as {}: {reason}", row.route, row.what, who.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of the matrix:\n{}", wrong.len(), wrong.join("\n"));
}

async fn check(row: &Row, who: &Who) -> Result<(), String> {
    let scene = Scene::new().await;
    let before = scene.items_of_the_tenant();
    let wanted = expected(row, who);
    let got = who.sign((row.call)(&scene), &scene).of(&scene.api).await;
    let status = got.status.as_u16();
    let body = String::from_utf8_lossy(&got.body).into_owned();
    if status != wanted {
        return Err(format!("{status} instead of {wanted}: {body:.200}"));
    }
    let is_insider = who.home == Home::Here && who.is_taken && who.role.is_some();
    let asks_for_no_key = matches!(row.access, Access::Public | Access::Link);
    let may_see = asks_for_no_key || (is_insider && status == row.ok);
    if may_see {
        return Ok(());
    }
    if body.contains(MARK) {
        return Err(format!("sees what is the tenant's alone: {body:.200}"));
    }
    // A response other than "not found" does not even contain the requested id.
    if status != 404 && [&scene.task, &scene.gated].iter().any(|id| body.contains(id.as_str())) {
        return Err(format!("hears of the tenant's tasks: {body:.200}"));
    }
    if scene.items_of_the_tenant() != before {
        return Err("has changed something of the tenant".to_owned());
    }
    Ok(())
}

/// The rows are meaningful: an authorized caller sees the mark in what is read by id.
#[tokio::test]
async fn the_scene_holds_something_to_be_seen() {
    let scene = Scene::new().await;
    for path in [format!("/tasks/{}", scene.task), "/tasks".into(), "/events".into()] {
        let got = ask("GET", &path).key(crate::common::USER).of(&scene.api).await;
        let body = String::from_utf8_lossy(&got.body).into_owned();
        assert!(body.contains(MARK), "{path}: {body}");
    }
}
