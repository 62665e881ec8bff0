//! Counters of a node, summed: what is subtracted before and after a round.

use std::collections::BTreeMap;

use serde_json::Value;

/// Every number of a status, by its dotted path, summed over the items of lists: a path such as
/// `reactors.counters.transport.system_calls` is the sum over all reactors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    values: BTreeMap<String, u64>,
}

impl Totals {
    /// Sums the statuses of any number of nodes.
    #[must_use]
    pub fn of(statuses: &[Value]) -> Totals {
        let mut totals = Totals::default();
        for status in statuses {
            totals.add("", status);
        }
        totals
    }

    fn add(&mut self, path: &str, value: &Value) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    let inner =
                        if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    self.add(&inner, value);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.add(path, item)),
            Value::Number(number) => {
                let sum = self.values.entry(path.to_owned()).or_default();
                *sum = sum.saturating_add(number.as_u64().unwrap_or(0));
            }
            Value::Null | Value::Bool(_) | Value::String(_) => {}
        }
    }

    /// What was added since `before`; zero where a node has started anew.
    #[must_use]
    pub fn since(&self, before: &Totals) -> Totals {
        let difference = |(path, value): (&String, &u64)| {
            let earlier = before.values.get(path).copied().unwrap_or(0);
            (path.clone(), value.saturating_sub(earlier))
        };
        Totals { values: self.values.iter().map(difference).collect() }
    }

    /// The sums at the paths that are `prefix` and a number behind it, by that number.
    #[must_use]
    pub fn by_number(&self, prefix: &str) -> BTreeMap<u64, u64> {
        let from = self.values.range(prefix.to_owned()..);
        let inside = from.take_while(|(path, _)| path.starts_with(prefix));
        inside.filter_map(|(path, sum)| Some((path[prefix.len()..].parse().ok()?, *sum))).collect()
    }

    /// The sum at a path; `None` where no node has such a number.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<u64> {
        self.values.get(path).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_are_summed_and_texts_left_out() {
        let node = json!({
            "node": "a",
            "reactors": [
                { "counters": { "doorbells": 1 }, "shards": [{ "writes": 10 }, { "writes": 20 }] },
                { "counters": { "doorbells": 2 }, "shards": [] },
            ],
        });
        let before = Totals::of(std::slice::from_ref(&node));
        let after = Totals::of(&[node.clone(), node]);
        assert_eq!(before.get("reactors.counters.doorbells"), Some(3));
        assert_eq!(before.get("reactors.shards.writes"), Some(30));
        assert_eq!(after.since(&before).get("reactors.shards.writes"), Some(30));
        assert_eq!(before.since(&after).get("reactors.shards.writes"), Some(0));
        assert_eq!(before.get("node"), None);
    }

    #[test]
    fn numbered_paths_are_found_by_their_prefix() {
        let node = json!({ "a": { "b": { "7": 1, "30": 2, "x": 3 }, "bc": { "8": 4 } } });
        let totals = Totals::of(&[node.clone(), node]);
        assert_eq!(totals.by_number("a.b."), [(7, 2), (30, 4)].into());
        assert!(totals.by_number("a.x.").is_empty());
    }
}
