//! Finding an executable's requests in its loaded image, and agreeing on a base revision.

use core::fmt;

use crate::protocol::{BASE_REVISION_MAGIC, BaseRevision, COMMON_MAGIC, END_MARKER, Feature, START_MARKER};

/// The three words that every request begins with after its id's four: id, revision, response.
const REQUEST_BYTES: usize = 48;
/// Where in a request the pointer to its response is.
const RESPONSE_OFFSET: usize = 40;

/// Where an executable's requests are, as offsets into its image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requests {
    tag: Option<usize>,
    found: [Option<usize>; Feature::ALL.len()],
}

/// Why an executable cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// Two requests for one feature ("Request": the loader refuses).
    Duplicate(Feature),
    /// A base revision that is not defined yet.
    BaseRevision(u64),
    /// A paging mode other than 4-level is the least that the executable accepts.
    PagingMode(u64),
    /// The requested entry point is not in the executable's code.
    EntryPoint(u64),
    /// The list of requests of a base revision 0 executable points elsewhere.
    BadList,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Duplicate(feature) => write!(f, "it requests {feature:?} twice"),
            Self::BaseRevision(revision) => write!(
                f,
                "it wants base revision {revision} of the Limine protocol; this loader knows 0 to {}",
                BaseRevision::HIGHEST.number()
            ),
            Self::PagingMode(mode) => {
                write!(f, "it wants paging mode {mode}; this loader has only 4-level paging")
            }
            Self::EntryPoint(entry) => {
                write!(f, "it wants to be entered at {entry:#x}, which is not in its code")
            }
            Self::BadList => write!(f, "its section .limine_reqs points outside of it"),
        }
    }
}

impl Requests {
    /// Looks through a loaded image ("Requests Delimiters"). Delimiters are honoured for every base revision; for
    /// 0 and 1 they are hints.
    ///
    /// # Errors
    /// [`RequestError::Duplicate`].
    pub fn scan(image: &[u8]) -> Result<Self, RequestError> {
        let mut requests = Self { tag: None, found: [None; Feature::ALL.len()] };
        let (start, end) = delimiters(image);
        for at in (start..end).step_by(8) {
            if word(image, at) == Some(BASE_REVISION_MAGIC[0])
                && matches(image, at, &BASE_REVISION_MAGIC)
                && at + 24 <= end
            {
                requests.tag = requests.tag.or(Some(at));
            } else if word(image, at) == Some(COMMON_MAGIC[0]) && at + REQUEST_BYTES <= end {
                requests.add(image, at)?;
            }
        }
        Ok(requests)
    }

    /// The requests that the section `.limine_reqs` of a base revision 0 executable lists, instead of all that
    /// stand in the image: offsets of a table of pointers, which are addresses in an image at `base`.
    ///
    /// # Errors
    /// [`RequestError::BadList`] and [`RequestError::Duplicate`].
    pub fn listed(&self, image: &[u8], table: usize, base: u64) -> Result<Self, RequestError> {
        let mut requests = Self { tag: self.tag, found: [None; Feature::ALL.len()] };
        for at in (table..image.len()).step_by(8) {
            let pointer = word(image, at).ok_or(RequestError::BadList)?;
            if pointer == 0 {
                return Ok(requests);
            }
            let place = pointer.wrapping_sub(base) as usize;
            let inside = place.checked_add(REQUEST_BYTES).is_some_and(|end| end <= image.len());
            if !inside || !place.is_multiple_of(8) {
                return Err(RequestError::BadList);
            }
            requests.add(image, place)?;
        }
        Err(RequestError::BadList)
    }

    fn add(&mut self, image: &[u8], at: usize) -> Result<(), RequestError> {
        if !matches(image, at, &COMMON_MAGIC) {
            return Ok(());
        }
        let (Some(third), Some(fourth)) = (word(image, at + 16), word(image, at + 24)) else { return Ok(()) };
        let Some(feature) = Feature::from_id([third, fourth]) else { return Ok(()) };
        match self.found[feature.index()].replace(at) {
            Some(_) => Err(RequestError::Duplicate(feature)),
            None => Ok(()),
        }
    }

    /// Whether a feature is asked for.
    pub fn has(&self, feature: Feature) -> bool {
        self.found[feature.index()].is_some()
    }

    /// Word `index` after the three that every request has, if the feature is asked for and the image reaches so far.
    pub fn argument(&self, image: &[u8], feature: Feature, index: usize) -> Option<u64> {
        word(image, self.found[feature.index()]? + REQUEST_BYTES + 8 * index)
    }

    /// The revision that the request states.
    pub fn revision(&self, image: &[u8], feature: Feature) -> Option<u64> {
        word(image, self.found[feature.index()]? + 32)
    }

    /// Points a request at its response; nothing if the feature was not asked for.
    pub fn respond(&self, image: &mut [u8], feature: Feature, response: u64) {
        if let Some(at) = self.found[feature.index()] {
            put(image, at + RESPONSE_OFFSET, response);
        }
    }

    /// The base revision to follow; says so in the tag ("Base Revisions"). A loader that knows less than this one
    /// is imitated if `limit` says so: it starts the executable all the same and leaves word 2 of the tag alone.
    ///
    /// # Errors
    /// [`RequestError::BaseRevision`].
    pub fn settle(
        &self,
        image: &mut [u8],
        limit: Option<BaseRevision>,
    ) -> Result<BaseRevision, RequestError> {
        let wanted = self.tag.and_then(|at| word(image, at + 16)).unwrap_or(0);
        let known = limit.unwrap_or(BaseRevision::HIGHEST);
        let supported = BaseRevision::new(wanted).filter(|revision| *revision <= known);
        if supported.is_none() && limit.is_none() {
            return Err(RequestError::BaseRevision(wanted));
        }
        let followed = supported.unwrap_or(known);
        if let Some(at) = self.tag {
            if known.reports_itself() {
                put(image, at + 8, followed.number());
            }
            if supported.is_some() {
                put(image, at + 16, 0);
            }
        }
        Ok(followed)
    }
}

/// The last start marker's end and the first end marker behind it; the whole image for those that are missing.
fn delimiters(image: &[u8]) -> (usize, usize) {
    let whole = image.len() & !7;
    let places = |from: usize| (from..whole).step_by(8);
    let start = places(0).rfind(|at| matches(image, *at, &START_MARKER)).map_or(0, |at| at + 32);
    let end = places(start).find(|at| matches(image, *at, &END_MARKER)).unwrap_or(whole);
    (start, end)
}

fn matches(image: &[u8], at: usize, words: &[u64]) -> bool {
    words.iter().enumerate().all(|(index, expected)| word(image, at + 8 * index) == Some(*expected))
}

fn word(image: &[u8], at: usize) -> Option<u64> {
    let bytes = image.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

fn put(image: &mut [u8], at: usize, value: u64) {
    image[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    fn image(words: &[&[u64]]) -> Vec<u8> {
        words.iter().flat_map(|words| words.iter()).flat_map(|word| word.to_le_bytes()).collect()
    }

    fn request(feature: Feature) -> [u64; 6] {
        let id = Feature::ALL[feature.index()].1;
        [COMMON_MAGIC[0], COMMON_MAGIC[1], id[0], id[1], 0, 0]
    }

    fn tag(revision: u64) -> [u64; 3] {
        [BASE_REVISION_MAGIC[0], BASE_REVISION_MAGIC[1], revision]
    }

    #[test]
    fn requests_are_found_and_answered() {
        let mut image = image(&[&[1, 2], &request(Feature::Hhdm), &request(Feature::StackSize), &[99]]);
        let requests = Requests::scan(&image).unwrap();
        assert!(requests.has(Feature::Hhdm) && !requests.has(Feature::Rsdp));
        assert_eq!(requests.argument(&image, Feature::StackSize, 0), Some(99));
        assert_eq!(requests.argument(&image, Feature::StackSize, 1), None);
        requests.respond(&mut image, Feature::Hhdm, 0x1234);
        requests.respond(&mut image, Feature::Rsdp, 0x5678);
        assert_eq!(word(&image, 16 + 40), Some(0x1234));
    }

    #[test]
    fn markers_are_honoured() {
        let hhdm = request(Feature::Hhdm);
        let rsdp = request(Feature::Rsdp);
        let image = image(&[&hhdm, &END_MARKER, &START_MARKER, &rsdp, &END_MARKER, &hhdm, &hhdm]);
        let requests = Requests::scan(&image).unwrap();
        assert!(requests.has(Feature::Rsdp) && !requests.has(Feature::Hhdm));
    }

    #[test]
    fn duplicates_are_refused() {
        let image = image(&[&request(Feature::Hhdm), &request(Feature::Hhdm)]);
        assert_eq!(Requests::scan(&image), Err(RequestError::Duplicate(Feature::Hhdm)));
    }

    #[test]
    fn a_request_that_the_image_ends_in_is_none() {
        let mut image = image(&[&request(Feature::Hhdm)]);
        image.truncate(40);
        assert!(!Requests::scan(&image).unwrap().has(Feature::Hhdm));
    }

    #[test]
    fn base_revisions_are_settled() {
        let settle = |words: &[u64], limit: Option<u64>| {
            let mut image = image(&[words]);
            let requests = Requests::scan(&image).unwrap();
            let result = requests.settle(&mut image, limit.and_then(BaseRevision::new));
            (result.map(BaseRevision::number), word(&image, 8), word(&image, 16))
        };
        let magic = Some(BASE_REVISION_MAGIC[1]);
        for revision in 0..=6 {
            assert_eq!(settle(&tag(revision), None), (Ok(revision), Some(revision), Some(0)));
        }
        assert_eq!(settle(&[], None).0, Ok(0), "no tag means 0");
        assert_eq!(settle(&tag(7), None), (Err(RequestError::BaseRevision(7)), magic, Some(7)));
        assert_eq!(settle(&tag(6), Some(3)), (Ok(3), Some(3), Some(6)), "an older loader");
        assert_eq!(settle(&tag(6), Some(2)), (Ok(2), magic, Some(6)), "one that knows nothing of word 1");
        assert_eq!(settle(&tag(2), Some(2)), (Ok(2), magic, Some(0)));
        assert_eq!(settle(&tag(1), Some(4)), (Ok(1), Some(1), Some(0)));
    }

    #[test]
    fn a_list_replaces_the_scan() {
        const BASE: u64 = 0xffff_ffff_8000_0000;
        let list = |words: &[u64]| {
            let image = image(&[&request(Feature::Hhdm), &request(Feature::Rsdp), words]);
            let requests = Requests::scan(&image).unwrap().listed(&image, 96, BASE)?;
            Ok((requests.has(Feature::Hhdm), requests.has(Feature::Rsdp)))
        };
        assert_eq!(list(&[BASE + 48, 0]), Ok((false, true)));
        assert_eq!(list(&[BASE + 48]), Err(RequestError::BadList), "no end");
        assert_eq!(list(&[BASE + 4, 0]), Err(RequestError::BadList));
        assert_eq!(list(&[BASE - 48, 0]), Err(RequestError::BadList));
        assert_eq!(list(&[BASE, BASE, 0]), Err(RequestError::Duplicate(Feature::Hhdm)));
    }

    proptest! {
        #[test]
        fn any_image_is_scanned(
            pieces in prop::collection::vec((0usize..8, any::<u64>()), 0..60),
            cut in 0usize..16,
        ) {
            let mut bytes = Vec::new();
            for (what, value) in pieces {
                bytes.extend(match what {
                    0 => image(&[&request(Feature::Hhdm)]),
                    1 => image(&[&START_MARKER]),
                    2 => image(&[&END_MARKER]),
                    3 => image(&[&tag(value % 9)]),
                    4 => image(&[&COMMON_MAGIC]),
                    _ => image(&[&[value]]),
                });
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            if let Ok(requests) = Requests::scan(&bytes) {
                requests.respond(&mut bytes, Feature::Hhdm, 1);
                let _ = requests.settle(&mut bytes, None);
                let _ = requests.listed(&bytes, 0, 0);
            }
        }
    }
}
