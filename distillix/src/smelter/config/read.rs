//! JSON values to structs, with errors that name the whole key and, for a key that does not exist, the nearest that
//! does.

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use std::fmt;

/// Why a value is not what a struct needs.
#[derive(Debug)]
pub struct ReadError {
    /// Keys and indices from the root to the place, as a user writes them: `data.sources[1].weight`.
    path: String,
    message: String,
}

impl ReadError {
    /// Moves the error's place one level down into `key`.
    fn within(mut self, key: &str) -> Self {
        self.path = match self.path.as_str() {
            "" => key.to_owned(),
            rest if rest.starts_with('[') => format!("{key}{rest}"),
            rest => format!("{key}.{rest}"),
        };
        self
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        ReadError { path: String::new(), message: message.to_string() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("there is no such key, {}", suggestion(field, expected))).within(field)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format!("{variant:?} is not known, {}", suggestion(variant, expected)))
    }
}

/// `did you mean X?` where one of `known` is near enough to be meant, else all of them.
pub fn suggestion(given: &str, known: &[&str]) -> String {
    let near = known
        .iter()
        .map(|name| (strsim::normalized_damerau_levenshtein(given, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness >= 0.4);
    match near {
        Some((_, name)) => format!("did you mean {name}?"),
        None => format!("it is one of {}", known.join(", ")),
    }
}

/// Reads a struct.
///
/// # Errors
/// A [`ReadError`] for the first value that does not fit.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, ReadError> {
    T::deserialize(Node(value))
}

struct Node(Value);

/// The entries of an object; an error in a value names its key.
struct Entries {
    rest: serde_json::map::IntoIter,
    value: Option<(String, Value)>,
}

impl<'de> MapAccess<'de> for Entries {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, ReadError> {
        self.value = self.rest.next();
        let Some((key, _)) = &self.value else { return Ok(None) };
        let key: StringDeserializer<ReadError> = key.clone().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        match self.value.take() {
            Some((key, value)) => seed.deserialize(Node(value)).map_err(|error| error.within(&key)),
            None => Err(de::Error::custom("a value without a key")),
        }
    }
}

/// The items of a list; an error in one names its place.
struct Items {
    rest: std::iter::Enumerate<std::vec::IntoIter<Value>>,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, ReadError> {
        let Some((i, value)) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Node(value)).map(Some).map_err(|error| error.within(&format!("[{i}]")))
    }
}

impl<'de> Deserializer<'de> for Node {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(x) => visitor.visit_bool(x),
            Value::Number(x) => match (x.as_u64(), x.as_i64(), x.as_f64()) {
                (Some(x), _, _) => visitor.visit_u64(x),
                (_, Some(x), _) => visitor.visit_i64(x),
                (_, _, Some(x)) => visitor.visit_f64(x),
                _ => Err(de::Error::custom("the number is too large")),
            },
            Value::String(x) => visitor.visit_string(x),
            Value::Array(list) => {
                let len = list.len();
                let mut items = Items { rest: list.into_iter().enumerate() };
                let value = visitor.visit_seq(&mut items)?;
                match items.rest.next() {
                    None => Ok(value),
                    Some((used, _)) => Err(de::Error::invalid_length(len, &&*format!("{used}"))),
                }
            }
            Value::Object(map) => visitor.visit_map(Entries { rest: map.into_iter(), value: None }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match self.0 {
            Value::String(variant) => {
                let variant: StringDeserializer<ReadError> = variant.into_deserializer();
                variant.deserialize_enum(name, variants, visitor)
            }
            _ => Err(de::Error::custom(format!("it must be one of {}", variants.join(", ")))),
        }
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
