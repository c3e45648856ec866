//! Packing: which pieces of which sequences make up each row.
//!
//! A sequence longer than a row is cut into full rows and a rest; a piece that continues a sequence is a segment of its own.
//! Rests and shorter sequences are packed whole by best fit, longest first, within blocks of sequences (Ding et al., "Fewer
//! truncations improve language modeling", 2024). Gaps that remain are filled by cutting up plain documents of the emptiest rows;
//! fill-ins and prompt/response pairs that fit a row are never cut. Every token lies in exactly one row. The plan is a function of the lengths alone.

use super::cache::write_aside;
use super::shard::{Mapped, Record, Shard, Split};
use anyhow::{Context, Result};
use bytemuck::{Pod, Zeroable};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};

/// Sequences packed together. Bounds the memory, not the quality: the rests of a block fill each other.
const BLOCK: usize = 16_384;
/// Gaps and pieces shorter than this many tokens are not worth a cut.
const MIN_PIECE: u32 = 32;

/// A piece of a sequence.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Chunk {
    /// Index of the sequence's [`Record`] within its split.
    pub record: u64,
    /// First token of the piece within the sequence.
    pub offset: u32,
    /// Number of tokens.
    pub len: u32,
}

/// The rows of one split of a shard, for one row length.
pub struct Plan {
    starts: Mapped<u64>,
    chunks: Mapped<Chunk>,
}

impl Plan {
    /// Opens the plan, making it first where there is none.
    ///
    /// # Errors
    /// When its files cannot be read or written.
    pub fn open(shard: &Shard, split: Split, seq_len: usize) -> Result<Self> {
        let path = |what: &str| shard.folder().join(format!("{}-{seq_len}.{what}", split.name()));
        let (rows, chunks) = (path("rows"), path("chunks"));
        // The rows are renamed into place last: with them, both are there.
        if !rows.exists() {
            let lock_path = shard.folder().join("plan.lock");
            let lock =
                File::create(&lock_path).with_context(|| format!("cannot create {}", lock_path.display()))?;
            lock.lock().with_context(|| format!("cannot lock {}", lock_path.display()))?;
            if !rows.exists() {
                write_aside(&rows, |rows_file| {
                    let mut row_writer = BufWriter::new(rows_file);
                    row_writer.write_all(&0u64.to_ne_bytes())?;
                    let written = write_aside(&chunks, |file| {
                        let mut chunk_writer = BufWriter::new(file);
                        let mut total = 0u64;
                        pack(shard.records(split), seq_len as u32, |row| {
                            total += row.len() as u64;
                            chunk_writer.write_all(bytemuck::cast_slice(row))?;
                            row_writer.write_all(&total.to_ne_bytes())
                        })?;
                        chunk_writer.flush()
                    });
                    written.map_err(std::io::Error::other)?;
                    row_writer.flush()
                })?;
            }
        }
        Ok(Self { starts: Mapped::open(&rows)?, chunks: Mapped::open(&chunks)? })
    }

    /// Number of rows.
    pub fn rows(&self) -> u64 {
        (self.starts.get().len() as u64).saturating_sub(1)
    }

    /// The pieces of a row.
    pub fn row(&self, row: u64) -> &[Chunk] {
        let starts = self.starts.get();
        &self.chunks.get()[starts[row as usize] as usize..starts[row as usize + 1] as usize]
    }
}

#[derive(Default)]
struct Bin {
    chunks: Vec<Chunk>,
    free: u32,
}

fn pack(
    records: &[Record],
    seq_len: u32,
    mut emit: impl FnMut(&[Chunk]) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for (block, records) in records.chunks(BLOCK).enumerate() {
        let first = (block * BLOCK) as u64;
        let mut rests = Vec::new();
        for (record, index) in records.iter().zip(first..) {
            let mut offset = 0;
            while record.len - offset >= seq_len {
                emit(&[Chunk { record: index, offset, len: seq_len }])?;
                offset += seq_len;
            }
            if offset < record.len {
                rests.push(Chunk { record: index, offset, len: record.len - offset });
            }
        }
        // The sort is stable, so equal lengths keep the order of documents.
        rests.sort_by_key(|chunk| std::cmp::Reverse(chunk.len));
        let mut bins = best_fit(&rests, seq_len);
        let is_whole = |chunk: &Chunk| {
            let record = &records[(chunk.record - first) as usize];
            record.flags & Record::WHOLE != 0 && record.len <= seq_len
        };
        fill_gaps(&mut bins, is_whole);
        for bin in bins.iter().filter(|bin| !bin.chunks.is_empty()) {
            emit(&bin.chunks)?;
        }
    }
    Ok(())
}

/// Puts each chunk into the fullest bin that still has room.
fn best_fit(chunks: &[Chunk], seq_len: u32) -> Vec<Bin> {
    let mut bins: Vec<Bin> = Vec::new();
    let mut by_free: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    for chunk in chunks {
        let fitting = by_free.range(chunk.len..).next().map(|(free, _)| *free);
        let at = match fitting.and_then(|free| Some((free, by_free.get_mut(&free)?))) {
            Some((free, list)) => {
                let at = list.pop();
                if list.is_empty() {
                    by_free.remove(&free);
                }
                at
            }
            None => None,
        };
        let at = at.unwrap_or_else(|| {
            bins.push(Bin { chunks: Vec::new(), free: seq_len });
            bins.len() - 1
        });
        bins[at].chunks.push(*chunk);
        bins[at].free -= chunk.len;
        if bins[at].free > 0 {
            by_free.entry(bins[at].free).or_default().push(at);
        }
    }
    bins
}

/// Empties the emptiest bins into the gaps of the others.
fn fill_gaps(bins: &mut [Bin], is_whole: impl Fn(&Chunk) -> bool) {
    let mut gaps: Vec<usize> = (0..bins.len()).filter(|at| bins[*at].free >= MIN_PIECE).collect();
    gaps.sort_by_key(|at| bins[*at].free);
    let mut gaps = VecDeque::from(gaps);
    while gaps.len() >= 2 {
        let Some(donor) = gaps.pop_back() else { break };
        if bins[donor].chunks.iter().any(&is_whole) {
            continue;
        }
        let mut pieces = VecDeque::from(std::mem::take(&mut bins[donor].chunks));
        while let (Some(piece), Some(at)) = (pieces.front_mut(), gaps.front()) {
            let bin = &mut bins[*at];
            let len = piece.len.min(bin.free);
            bin.chunks.push(Chunk { len, ..*piece });
            bin.free -= len;
            piece.offset += len;
            piece.len -= len;
            if piece.len == 0 {
                pieces.pop_front();
            }
            if bin.free < MIN_PIECE {
                gaps.pop_front();
            }
        }
        bins[donor].chunks = pieces.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(lens: &[(u32, bool)], seq_len: u32) -> Vec<Vec<Chunk>> {
        let record = |&(len, whole): &(u32, bool)| Record {
            start: 0,
            hash: 0,
            len,
            flags: if whole { Record::WHOLE } else { 0 },
        };
        let records: Vec<Record> = lens.iter().map(record).collect();
        let mut rows = Vec::new();
        pack(&records, seq_len, |row| {
            rows.push(row.to_vec());
            Ok(())
        })
        .expect("nothing is written");
        rows
    }

    proptest! {
        #[test]
        fn every_token_once(lens in prop::collection::vec((1u32..500, any::<bool>()), 0..80), seq_len in 1u32..300) {
            let rows = rows(&lens, seq_len);
            let mut pieces: Vec<Chunk> = rows.concat();
            prop_assert!(rows.iter().all(|row| !row.is_empty() && row.iter().map(|c| c.len).sum::<u32>() <= seq_len));
            pieces.sort_by_key(|c| (c.record, c.offset));
            let mut expected = (0u64, 0);
            for piece in &pieces {
                prop_assert_eq!((piece.record, piece.offset), expected);
                expected.1 += piece.len;
                let (len, whole) = lens[piece.record as usize];
                prop_assert!(piece.len > 0 && (!whole || len > seq_len || piece.len == len));
                if expected.1 == len {
                    expected = (expected.0 + 1, 0);
                }
            }
            prop_assert_eq!(expected, (lens.len() as u64, 0));
        }

        #[test]
        fn rows_of_plain_documents_are_full(lens in prop::collection::vec(1u32..5000, 50..200)) {
            let lens: Vec<(u32, bool)> = lens.into_iter().map(|len| (len, false)).collect();
            let rows = rows(&lens, 1024);
            let tokens: u32 = lens.iter().map(|(len, _)| len).sum();
            prop_assert!(f64::from(tokens) / (rows.len() as f64 * 1024.0) > 0.95, "{} rows", rows.len());
        }
    }

    #[test]
    fn documents_just_over_half_a_row_still_fill_it() {
        let rows = rows(&[(600, false); 100], 1000);
        assert!(rows.len() <= 62, "{}", rows.len());
    }
}
