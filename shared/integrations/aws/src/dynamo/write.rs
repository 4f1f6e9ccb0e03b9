//! Commits: a conditional call for one write, a transaction for several.

use std::collections::HashMap;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::builders::TransactWriteItemBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, ConditionCheck, Delete, Put,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update,
};
use watchbill_core::ports::{
    CommitError, CounterAdd, Item, Key, NewItem, Precondition, Store, StoreError, Write, WriteId,
};
use watchbill_domain::Timestamp;

use super::DynamoStore;
use super::failure::{BUSY, CONFLICT_DELAY, illegal, write_failure};
use super::item::{
    COUNTER, Fields, check_key, decode, encode, expiry, key_map, number, text, write_id,
};

const ABSENT: &str = "attribute_not_exists(pk)";
const AT_VERSION: &str = "v = :was";
const CURRENT: ReturnValuesOnConditionCheckFailure = ReturnValuesOnConditionCheckFailure::AllOld;

/// Holds for every action of a transaction.
const SET: &str = "table, key and expressions are set";

type Values = HashMap<String, AttributeValue>;

impl DynamoStore {
    pub(super) async fn create(&self, item: NewItem, id: WriteId) -> Result<(), CommitError> {
        let key = item.key.clone();
        let row = whole_row(&key, encode(item, id)?);
        let answer = self
            .client
            .put_item()
            .table_name(&*self.table)
            .set_item(Some(row))
            .condition_expression(ABSENT)
            .return_values_on_condition_check_failure(CURRENT)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                ours_or_conflict(key, current(failed.item())?, id)
            }
            _ => Err(write_failure(&error)),
        }
    }

    pub(super) async fn replace(
        &self,
        item: NewItem,
        version: u64,
        id: WriteId,
    ) -> Result<(), CommitError> {
        let key = item.key.clone();
        let Changes { expression, values } = over(encode(item, id)?, version);
        let answer = self
            .client
            .update_item()
            .table_name(&*self.table)
            .set_key(Some(key_map(&key)))
            .update_expression(expression)
            .condition_expression(AT_VERSION)
            .set_expression_attribute_values(Some(values))
            .return_values_on_condition_check_failure(CURRENT)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(failed)) => {
                ours_or_conflict(key, current(failed.item())?, id)
            }
            _ => Err(write_failure(&error)),
        }
    }

    pub(super) async fn delete(&self, key: Key, expect: Precondition) -> Result<(), CommitError> {
        check_key(&key)?;
        let (condition, values) = condition(expect);
        let answer = self
            .client
            .delete_item()
            .table_name(&*self.table)
            .set_key(Some(key_map(&key)))
            .condition_expression(condition)
            .set_expression_attribute_values(values)
            .return_values_on_condition_check_failure(CURRENT)
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(DeleteItemError::ConditionalCheckFailedException(failed)) => {
                Err(conflict(key, current(failed.item())?))
            }
            _ => Err(write_failure(&error)),
        }
    }

    /// A commit of a single check is a read.
    pub(super) async fn check(&self, key: Key, expect: Precondition) -> Result<(), CommitError> {
        let current = self.get(&key).await?;
        let holds = match expect {
            Precondition::Absent => current.is_none(),
            Precondition::Version(version) => {
                current.as_ref().is_some_and(|i| i.version == version)
            }
        };
        if holds { Ok(()) } else { Err(conflict(key, current)) }
    }

    pub(super) async fn transact(
        &self,
        writes: Vec<Write>,
        id: WriteId,
    ) -> Result<(), CommitError> {
        let keys: Vec<(Key, bool)> = writes
            .iter()
            .map(|write| (write.key().clone(), matches!(write, Write::Add { .. })))
            .collect();
        let actions: Vec<TransactWriteItem> =
            writes.into_iter().map(|write| self.action(write, id)).collect::<Result<_, _>>()?;
        let answer = self
            .client
            .transact_write_items()
            .set_transact_items(Some(actions))
            .client_request_token(format!("{:032x}", id.0))
            .send()
            .await;
        let Err(error) = answer else { return Ok(()) };
        match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
                self.cancelled(&keys, cancelled.cancellation_reasons(), id, &error).await
            }
            _ => Err(write_failure(&error)),
        }
    }

    fn action(&self, write: Write, id: WriteId) -> Result<TransactWriteItem, CommitError> {
        let action = TransactWriteItem::builder();
        let table = &*self.table;
        check_key(write.key())?;
        Ok(match write {
            Write::Put { item, expect } => {
                let key = item.key.clone();
                put_action(table, &key, encode(item, id)?, expect)
            }
            Write::Delete { key, expect } => {
                let (condition, values) = condition(expect);
                let delete = Delete::builder()
                    .table_name(table)
                    .set_key(Some(key_map(&key)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(CURRENT);
                action.delete(delete.build().expect(SET))
            }
            Write::Check { key, expect } => {
                let (condition, values) = condition(expect);
                let check = ConditionCheck::builder()
                    .table_name(table)
                    .set_key(Some(key_map(&key)))
                    .condition_expression(condition)
                    .set_expression_attribute_values(values)
                    .return_values_on_condition_check_failure(CURRENT);
                action.condition_check(check.build().expect(SET))
            }
            Write::Add { key, kind, adds, expires } => {
                let sum = additions(kind, &adds, expires, id);
                let update = Update::builder()
                    .table_name(table)
                    .set_key(Some(key_map(&key)))
                    .update_expression(sum.changes.expression)
                    .set_return_values_on_condition_check_failure(
                        sum.condition.as_ref().map(|_| CURRENT),
                    )
                    .set_condition_expression(sum.condition)
                    .set_expression_attribute_names(Some(sum.names))
                    .set_expression_attribute_values(Some(sum.changes.values));
                action.update(update.build().expect(SET))
            }
        }
        .build())
    }

    /// `keys`: those of the writes in order, with whether each is an addition.
    async fn cancelled(
        &self,
        keys: &[(Key, bool)],
        reasons: &[CancellationReason],
        id: WriteId,
        error: &SdkError<TransactWriteItemsError>,
    ) -> Result<(), CommitError> {
        let mut first_failed = None;
        let mut passed_adds = Vec::new();
        for ((key, is_add), reason) in keys.iter().zip(reasons) {
            if reason.code() == Some("ConditionalCheckFailed") {
                let current = current(reason.item())?;
                if current.as_ref().is_some_and(|item| item.write_id == id) {
                    return Ok(());
                }
                first_failed.get_or_insert((key, current));
            } else if *is_add {
                passed_adds.push(key.clone());
            }
        }
        let Some((key, current)) = first_failed else {
            return Err(not_by_condition(reasons, error));
        };
        // If this is a retry, other commits may have overwritten our puts. An addition may
        // still carry our write id, though its condition would pass again.
        if !passed_adds.is_empty() {
            let items = self.get_many(&passed_adds).await.map_err(|error| {
                let reason = format!("can't read whether it was already applied: {error}");
                CommitError::Unknown { reason }
            })?;
            if items.iter().flatten().any(|item| item.write_id == id) {
                return Ok(());
            }
        }
        Err(conflict(key.clone(), current))
    }
}

fn put_action(
    table: &str,
    key: &Key,
    fields: Fields,
    expect: Precondition,
) -> TransactWriteItemBuilder {
    match expect {
        Precondition::Absent => {
            let put = Put::builder()
                .table_name(table)
                .set_item(Some(whole_row(key, fields)))
                .condition_expression(ABSENT)
                .return_values_on_condition_check_failure(CURRENT);
            TransactWriteItem::builder().put(put.build().expect(SET))
        }
        Precondition::Version(version) => {
            let Changes { expression, values } = over(fields, version);
            let update = Update::builder()
                .table_name(table)
                .set_key(Some(key_map(key)))
                .update_expression(expression)
                .condition_expression(AT_VERSION)
                .set_expression_attribute_values(Some(values))
                .return_values_on_condition_check_failure(CURRENT);
            TransactWriteItem::builder().update(update.build().expect(SET))
        }
    }
}

/// A cancellation in which no condition failed or none was evaluated.
fn not_by_condition(
    reasons: &[CancellationReason],
    error: &SdkError<TransactWriteItemsError>,
) -> CommitError {
    let has = |code: &str| reasons.iter().find(|reason| reason.code() == Some(code));
    if let Some(wrong) = has("ValidationError").or_else(|| has("ItemCollectionSizeLimitExceeded")) {
        return illegal(wrong.message().unwrap_or("no message"));
    }
    if has("ThrottlingError").or_else(|| has("ProvisionedThroughputExceeded")).is_some() {
        return CommitError::Busy { after: BUSY };
    }
    if has("TransactionConflict").is_some() {
        return CommitError::Busy { after: CONFLICT_DELAY };
    }
    write_failure(error)
}

fn current(row: Option<&HashMap<String, AttributeValue>>) -> Result<Option<Item>, StoreError> {
    row.filter(|row| !row.is_empty()).map(decode).transpose()
}

fn ours_or_conflict(key: Key, current: Option<Item>, id: WriteId) -> Result<(), CommitError> {
    match current {
        Some(item) if item.write_id == id => Ok(()),
        current => Err(conflict(key, current)),
    }
}

fn conflict(key: Key, current: Option<Item>) -> CommitError {
    CommitError::Conflict { key, current: current.map(Box::new) }
}

fn condition(expect: Precondition) -> (&'static str, Option<Values>) {
    match expect {
        Precondition::Absent => (ABSENT, None),
        Precondition::Version(version) => {
            (AT_VERSION, Some(HashMap::from([(":was".to_owned(), number(version))])))
        }
    }
}

fn whole_row(key: &Key, fields: Fields) -> HashMap<String, AttributeValue> {
    let mut row = key_map(key);
    row.insert("v".to_owned(), number(1));
    row.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    row
}

struct Changes {
    expression: String,
    values: Values,
}

/// Puts an item over version `was`. Keeps attributes of others: counters, and what a newer
/// version of this program may store.
fn over(fields: Fields, was: u64) -> Changes {
    let mut values = HashMap::with_capacity(fields.len() + 2);
    values.insert(":was".to_owned(), number(was));
    values.insert(":v".to_owned(), number(u128::from(was) + 1));
    let (mut set, mut remove) = (String::from("SET v = :v"), String::new());
    for (name, value) in fields {
        match value {
            Some(value) => {
                set += &format!(", {name} = :{name}");
                values.insert(format!(":{name}"), value);
            }
            None => {
                remove += if remove.is_empty() { " REMOVE " } else { ", " };
                remove += name;
            }
        }
    }
    Changes { expression: set + &remove, values }
}

struct Additions {
    changes: Changes,
    condition: Option<String>,
    names: HashMap<String, String>,
}

fn additions(
    kind: &str,
    adds: &[CounterAdd],
    expires: Option<Timestamp>,
    id: WriteId,
) -> Additions {
    let mut values = HashMap::from([
        (":w".to_owned(), write_id(id)),
        (":k".to_owned(), text(kind)),
        (":one".to_owned(), number(1)),
    ]);
    let mut set = String::from("SET w = :w, k = if_not_exists(k, :k)");
    let mut remove = "";
    if expires.is_some() {
        for (name, value) in expiry(expires) {
            match value {
                Some(value) => {
                    set += &format!(", {name} = :{name}");
                    values.insert(format!(":{name}"), value);
                }
                None => remove = " REMOVE xm",
            }
        }
    }
    let mut sums = String::from(" ADD v :one");
    let mut names = HashMap::with_capacity(adds.len());
    let mut ceilings = Vec::new();
    for (n, add) in adds.iter().enumerate() {
        names.insert(format!("#c{n}"), format!("{COUNTER}{}", add.name));
        sums += &format!(", #c{n} :d{n}");
        values.insert(format!(":d{n}"), number(add.delta));
        let Some(ceiling) = add.ceiling else { continue };
        let most = i128::from(ceiling) - i128::from(add.delta);
        values.insert(format!(":m{n}"), number(most));
        // An absent counter counts as 0, but a comparison with it never holds.
        ceilings.push(if most >= 0 {
            format!("(attribute_not_exists(#c{n}) OR #c{n} <= :m{n})")
        } else {
            format!("#c{n} <= :m{n}")
        });
    }
    let expression = set + remove + &sums;
    let condition = (!ceilings.is_empty()).then(|| ceilings.join(" AND "));
    Additions { changes: Changes { expression, values }, condition, names }
}
