//! How identifiers and addresses stand in the file: as plain numbers and texts.

/// A [`CopysetId`](crate::ids::CopysetId) as a number.
pub(super) mod copyset_id {
    use crate::ids::CopysetId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &CopysetId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(id.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<CopysetId, D::Error> {
        u32::deserialize(deserializer).map(CopysetId)
    }
}

/// A list of [`CopysetId`](crate::ids::CopysetId)s as numbers.
pub(super) mod copyset_ids {
    use crate::ids::CopysetId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(ids: &[CopysetId], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(ids.iter().map(|id| id.0))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<CopysetId>, D::Error> {
        let numbers = Vec::<u32>::deserialize(deserializer)?;
        Ok(numbers.into_iter().map(CopysetId).collect())
    }
}

/// A [`ReplicaId`](crate::ids::ReplicaId) as a number.
pub(super) mod replica_id {
    use crate::ids::ReplicaId;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(id: &ReplicaId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(id.0)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ReplicaId, D::Error> {
        u64::deserialize(deserializer).map(ReplicaId)
    }
}

/// A list of addresses as URIs.
pub(super) mod addresses {
    use crate::network::Address;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        addresses: &[Address],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(addresses.iter().map(ToString::to_string))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Address>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        let parse = |text: &String| {
            text.parse().map_err(|error| D::Error::custom(format_args!("{text}: {error}")))
        };
        texts.iter().map(parse).collect()
    }
}
