use super::*;

#[test]
fn a_uuid_has_version_variant_and_time() {
    assert_eq!(uuid_v7(Timestamp(0x0123_4567_89ab), [0xff; 10]), "01234567-89ab-7fff-bfff-ffffffffffff");
    assert_eq!(uuid_v7(Timestamp(0), [0; 10]), "00000000-0000-7000-8000-000000000000");
}

#[test]
fn uuids_sort_by_time() {
    assert!(uuid_v7(Timestamp(1_000), [0xff; 10]) < uuid_v7(Timestamp(1_001), [0; 10]));
}
