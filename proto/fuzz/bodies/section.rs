//! A section of a snapshot: what is read is written so that it is read the same, and is checked without a panic.

use std::sync::Arc;

use proto::snapshot::{Digest, Section, SectionName, Sections, Settings, Snapshot};

/// First two bytes: which section, and which bucket. The rest: its bytes.
pub fn run(bytes: &[u8]) {
    let Some((&[choice, bucket], bytes)) = bytes.split_first_chunk() else { return };
    let name = match choice % 6 {
        0 => SectionName::Settings,
        1 => SectionName::Listeners,
        2 => SectionName::Authorities,
        3 => SectionName::Upstreams(bucket),
        4 => SectionName::Apis(bucket),
        _ => SectionName::Certificates(bucket),
    };
    let Ok(section) = Section::decode(name, bytes) else { return };
    let written = section.encode();
    assert_eq!(Section::decode(name, &written).ok().as_ref(), Some(&section));
    let defaults = [
        (SectionName::Settings, Section::Settings(Settings::default())),
        (SectionName::Listeners, Section::Listeners(Vec::new())),
    ];
    let sections: Sections = defaults
        .into_iter()
        .chain([(name, section)])
        .map(|(name, section)| (name, (Digest::of(&section.encode()), Arc::new(section))))
        .collect();
    if let Ok(snapshot) = Snapshot::from_sections(sections, None) {
        assert_eq!(Snapshot::check(snapshot.to_config()).ok().map(|again| again.checksum()), Some(snapshot.checksum()));
    }
}
