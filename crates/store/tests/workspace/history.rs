//! Random histories of edits: what is shown is the tree, as if nothing had been shown before.

use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use quern_core::port::Workspace;
use quern_store::workspace::{Existing, Limits};

use crate::model::{Bench, Model, Shown, Thing, large, normal, read_dir, remove, set};

/// One edit of a tree in the mind.
#[derive(Debug, Clone)]
enum Edit {
    Write(String, u8, bool),
    Remove(String),
    Link(String),
    MakeDir(String),
    Show { keep: bool },
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = "[abc](/[abc]){0,3}";
    let edit = prop_oneof![
        6 => (path, any::<u8>(), any::<bool>()).prop_map(|(path, byte, x)| Edit::Write(path, byte, x)),
        3 => path.prop_map(Edit::Remove),
        1 => path.prop_map(Edit::Link),
        1 => path.prop_map(Edit::MakeDir),
        3 => any::<bool>().prop_map(|keep| Edit::Show { keep }),
    ];
    proptest::collection::vec(edit, 1..40)
}

fn edit(model: &mut Model, edit: &Edit) {
    match edit {
        Edit::Write(path, byte, executable) => {
            let bytes = vec![*byte; usize::from(*byte) * 3];
            set(model, path, Thing::File(bytes, *executable));
        }
        Edit::Remove(path) => remove(model, path),
        Edit::Link(path) => set(model, path, Thing::Link("filler".into())),
        Edit::MakeDir(path) => set(model, path, Thing::Dir),
        Edit::Show { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_is_shown_is_the_tree(edits in edits()) {
        let bench = Bench::with(Limits { snapshots: 4, bytes: u64::MAX });
        let mut model = large(&[]);
        let mut kept: Vec<(Shown, Model)> = Vec::new();
        for (i, next) in edits.iter().chain([&Edit::Show { keep: false }]).enumerate() {
            edit(&mut model, next);
            let Edit::Show { keep } = next else { continue };
            let shown = bench.present(&model);
            let (found, expected) = (read_dir(&shown.path), normal(&model));
            prop_assert_eq!(&found, &expected);
            let fresh = bench.space.path(format!("fresh{i}"));
            bench.workspace.checkout_to(&bench.put(&model), &fresh, Existing::Refuse).unwrap();
            prop_assert_eq!(read_dir(&fresh), expected);
            // What was shown, written out as an output, is the same tree again.
            let scratch = bench.workspace.scratch().unwrap();
            bench.workspace.checkout_to(&bench.put(&model), &scratch, Existing::Refuse).unwrap();
            prop_assert_eq!(bench.workspace.take(&scratch).unwrap().digest, bench.put(&model));
            if *keep {
                kept.push((shown, found));
            }
        }
        for (shown, model) in &kept {
            prop_assert_eq!(&read_dir(&shown.path), model);
        }
    }
}
