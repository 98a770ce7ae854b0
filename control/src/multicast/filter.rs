//! Filters: which sources of a group are wanted, and those of many members merged into one (RFC 3376 3.2, RFC 3810 4.2).

use std::collections::BTreeSet;

/// What a member, or all of them together, want of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter<A> {
    /// These sources only. None at all: not a member.
    Include(BTreeSet<A>),
    /// All but these.
    Exclude(BTreeSet<A>),
}

impl<A: Copy + Ord> Filter<A> {
    /// Not a member.
    pub fn none() -> Self {
        Self::Include(BTreeSet::new())
    }

    /// All sources.
    pub fn all() -> Self {
        Self::Exclude(BTreeSet::new())
    }

    /// Whether nothing is wanted.
    pub fn is_none(&self) -> bool {
        matches!(self, Self::Include(sources) if sources.is_empty())
    }

    /// Whether it is of the mode EXCLUDE.
    pub fn excludes(&self) -> bool {
        matches!(self, Self::Exclude(_))
    }

    /// The listed sources, wanted or not.
    pub fn sources(&self) -> &BTreeSet<A> {
        match self {
            Self::Include(sources) | Self::Exclude(sources) => sources,
        }
    }

    /// Whether what `source` sends is wanted.
    pub fn accepts(&self, source: A) -> bool {
        match self {
            Self::Include(sources) => sources.contains(&source),
            Self::Exclude(sources) => !sources.contains(&source),
        }
    }

    /// What is wanted by at least one: if any excludes, the sources that all of those exclude and nobody includes; else the
    /// sources that anybody includes.
    pub fn merge<'a>(filters: impl IntoIterator<Item = &'a Self>) -> Self
    where
        A: 'a,
    {
        let mut included = BTreeSet::new();
        let mut excluded: Option<BTreeSet<A>> = None;
        for filter in filters {
            match filter {
                Self::Include(sources) => included.extend(sources),
                Self::Exclude(sources) => {
                    excluded = Some(match excluded {
                        None => sources.clone(),
                        Some(all) => all.intersection(sources).copied().collect(),
                    });
                }
            }
        }
        match excluded {
            None => Self::Include(included),
            Some(all) => Self::Exclude(all.difference(&included).copied().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(text: &str) -> BTreeSet<char> {
        text.chars().collect()
    }

    #[test]
    fn the_examples_of_rfc_3376_3_2() {
        let (include, exclude) = (|t| Filter::Include(set(t)), |t| Filter::Exclude(set(t)));
        let merged = Filter::merge(&[exclude("abcd"), exclude("bcde"), include("def")]);
        assert_eq!(merged, exclude("bc"));
        let merged = Filter::merge(&[include("abc"), include("bcd"), include("ef")]);
        assert_eq!(merged, include("abcdef"));
        // 3.1: a second socket with INCLUDE has no influence where the first wants all.
        assert_eq!(Filter::merge(&[exclude("c"), include("abc")]), exclude(""));
        assert_eq!(Filter::<char>::merge(&[]), Filter::none());
        assert_eq!(Filter::merge(&[exclude("")]), Filter::all());
    }

    proptest! {
        #[test]
        fn what_anybody_wants_is_wanted(all in prop::collection::vec((any::<bool>(), prop::collection::btree_set(0u8..8, 0..8)), 0..6)) {
            let filters: Vec<_> = all
                .into_iter()
                .map(|(exclude, sources)| if exclude { Filter::Exclude(sources) } else { Filter::Include(sources) })
                .collect();
            let merged = Filter::merge(&filters);
            for source in 0..9 {
                prop_assert_eq!(merged.accepts(source), filters.iter().any(|f| f.accepts(source)));
            }
            // 3376 3.2: never EXCLUDE when all are INCLUDE.
            prop_assert_eq!(merged.excludes(), filters.iter().any(Filter::excludes));
        }
    }
}
