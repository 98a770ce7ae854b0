//! What a host wants, by what it says: the filter of a member that speaks the protocol itself. As a router would take it
//! (RFC 3376 6.4, RFC 3810 7.4), but that there is one host, and nothing runs out.
//!
//! When in doubt it wants more: sources that it does not name are let through rather than lost.

use super::filter::Filter;
use super::message::{Kind, Record};

/// The filter of a host that had `known` after it has said this. `whole`: MODE_IS_INCLUDE names all that it wants; else it
/// may be the answer to a query for some sources, or go on in another record.
pub fn follow<A: Copy + Ord>(known: &Filter<A>, record: &Record<A>, whole: bool) -> Filter<A> {
    let said = &record.sources;
    match (record.kind, known) {
        // Cut to a packet it names fewer that are not wanted.
        (Kind::IsExclude | Kind::ToExclude, _) => Filter::Exclude(said.clone()),
        (Kind::ToInclude, Filter::Exclude(_)) => Filter::Include(said.clone()),
        (Kind::IsInclude, _) if whole => Filter::Include(said.clone()),
        (Kind::Block, Filter::Include(sources)) => Filter::Include(sources - said),
        (Kind::Block, Filter::Exclude(sources)) => Filter::Exclude(sources | said),
        (_, Filter::Include(sources)) => Filter::Include(sources | said),
        (_, Filter::Exclude(sources)) => Filter::Exclude(sources - said),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::group::Group;
    use super::*;

    fn filters() -> impl Strategy<Value = Filter<u8>> {
        (any::<bool>(), prop::collection::btree_set(0u8..6, 0..6)).prop_map(|(exclude, sources)| {
            if exclude { Filter::Exclude(sources) } else { Filter::Include(sources) }
        })
    }

    #[test]
    fn each_kind() {
        let set = |text: &str| text.chars().collect::<BTreeSet<char>>();
        let (include, exclude) = (|t| Filter::Include(set(t)), |t| Filter::Exclude(set(t)));
        let after = |known: &Filter<char>, kind, text, whole| {
            follow(known, &Record { kind, group: 'g', sources: set(text) }, whole)
        };
        for (known, kind, said, then) in [
            (include("ab"), Kind::Allow, "c", include("abc")),
            (include("ab"), Kind::Block, "bc", include("a")),
            (include("ab"), Kind::ToExclude, "a", exclude("a")),
            // It goes on in a second record.
            (include("ab"), Kind::ToInclude, "c", include("abc")),
            (include("ab"), Kind::IsInclude, "b", include("ab")),
            (exclude("ab"), Kind::Allow, "b", exclude("a")),
            (exclude("ab"), Kind::Block, "c", exclude("abc")),
            (exclude("ab"), Kind::ToInclude, "c", include("c")),
            (exclude("ab"), Kind::ToInclude, "", Filter::none()),
            // The answer to a query for b and c.
            (exclude("ab"), Kind::IsInclude, "c", exclude("ab")),
            (exclude("ab"), Kind::IsExclude, "c", exclude("c")),
        ] {
            assert_eq!(after(&known, kind, said, false), then, "{known:?} {kind:?} {said}");
        }
        assert_eq!(after(&exclude(""), Kind::IsInclude, "c", true), include("c"));
    }

    proptest! {
        /// A host's state changes, each said once at least; `lost`: it changes again before it has said all.
        #[test]
        fn a_host_is_followed(steps in prop::collection::vec((filters(), 1u8..4, any::<bool>()), 1..12)) {
            let (mut host, mut known) = (Group::<u8>::new(), Filter::none());
            for (filter, robustness, hurried) in steps {
                host.members.insert(1, filter.clone());
                host.update(robustness);
                let mut said = host.changing();
                while said {
                    for record in host.change(0) {
                        known = follow(&known, &record, false);
                    }
                    for source in 0..7 {
                        prop_assert!(known.accepts(source) || !filter.accepts(source), "{known:?} {filter:?}");
                    }
                    said = host.changing() && !hurried;
                }
                // And what it answers is true, too.
                if let Some(record) = host.current(0) {
                    prop_assert_eq!(&follow(&known, &record, true), &filter);
                    known = follow(&known, &record, false);
                }
            }
        }
    }
}
