use super::*;

#[tokio::test]
async fn a_folder_becomes_empty_or_the_deadline_comes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let said = until_empty(folder.path(), Duration::from_millis(20)).await.unwrap_err();
    assert!(said.ends_with(": file"), "{said}");
    let waiting = tokio::spawn({
        let folder = folder.path().to_owned();
        async move { until_empty(&folder, Duration::from_secs(60)).await }
    });
    std::fs::remove_file(&file).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(()));
    assert_eq!(until_empty(Path::new("/nonexistent"), Duration::from_secs(60)).await, Ok(()));
}
