//! What an image's name means, and that it keeps meaning it.

use std::collections::BTreeSet;

use mill_core::container::{Digest, OpErrorKind, PinnedImage};
use mill_core::name::AllocId;

use crate::support::{Host, Registry, free_port, refused, registry_digest, spec};

#[tokio::test]
async fn a_local_image_means_its_id_and_is_already_there() {
    let Some(host) = Host::start() else { return };
    let image = host.resolve("test/web:1").await.unwrap();
    let id = host.docker(&["image", "inspect", "-f", "{{.Id}}", "test/web:1"]);
    assert_eq!(
        image,
        PinnedImage { reference: "test/web:1".to_owned(), digest: Digest::Local(id) }
    );
    host.fetch(&image).await.unwrap();

    let elsewhere = format!("sha256:{}", "0".repeat(64));
    let image = PinnedImage { digest: Digest::Local(elsewhere), ..image };
    let says = ["test/web:1", "push it to a registry"];
    refused(host.fetch(&image).await, OpErrorKind::ImageMissing, &says);
}

#[tokio::test]
async fn a_tag_that_moves_does_not_change_what_a_pinned_alloc_runs() {
    let Some(host) = Host::start() else { return };
    let Some(registry) = Registry::start().await else { return };
    let name = registry.image("shop/web:3.1");
    registry.push(&host, "test/web:1", "shop/web:3.1");
    let pinned = host.resolve(&name).await.unwrap();
    assert!(registry_digest(&pinned).starts_with("sha256:"), "{pinned:?}");

    host.docker(&["rmi", &name]);
    registry.push(&host, "test/web:2", "shop/web:3.1");
    host.fetch(&pinned).await.unwrap();
    let alloc = AllocId::known("moved.0-a");
    host.begin(spec(alloc.as_str(), pinned.clone(), "echo version $VERSION")).await.unwrap();
    host.printed(&alloc, "version 1").await;

    let moved = host.resolve(&name).await.unwrap();
    assert_ne!(registry_digest(&moved), registry_digest(&pinned));
    host.begin(spec("moved.0-b", moved, "echo version $VERSION")).await.unwrap();
    host.printed(&AllocId::known("moved.0-b"), "version 2").await;
}

#[tokio::test]
async fn a_tag_that_is_here_is_taken_as_it_is_but_latest_is_asked_for() {
    let Some(host) = Host::start() else { return };
    let Some(mut registry) = Registry::start().await else { return };
    for tag in ["1", "latest"] {
        registry.push(&host, "test/web:1", &format!("here/web:{tag}"));
    }
    // A tag that nobody asked for is not fetched beside it.
    registry.push(&host, "test/web:2", "here/web:other");
    let (numbered, latest) = (registry.image("here/web:1"), registry.image("here/web"));
    let first = host.resolve(&latest).await.unwrap();
    assert_eq!(registry_digest(&host.resolve(&numbered).await.unwrap()), registry_digest(&first));
    let other = host.try_docker(&["image", "inspect", &registry.image("here/web:other")]);
    assert!(!other.status.success(), "a name without a tag means `latest`, not every tag");

    // Somebody else moves both.
    for tag in ["1", "latest"] {
        registry.push_elsewhere(&host, "test/web:2", &format!("here/web:{tag}"));
    }
    let same = host.resolve(&numbered).await.unwrap();
    assert_eq!(registry_digest(&same), registry_digest(&first));
    let newer = host.resolve(&latest).await.unwrap();
    assert_ne!(registry_digest(&newer), registry_digest(&first));

    registry.stop();
    let known = host.resolve(&latest).await.unwrap();
    assert_eq!(registry_digest(&known), registry_digest(&newer), "the last one known");
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_missing() {
    let Some(host) = Host::start() else { return };
    let Some(registry) = Registry::start().await else { return };
    registry.push(&host, "test/web:1", "shop/known:1");
    for name in ["shop/known:9", "shop/unknown:1"] {
        let name = registry.image(name);
        let result = host.resolve(&name).await;
        refused(result, OpErrorKind::ImageMissing, &[&name, "check the image's name and tag"]);
    }
    let gone = PinnedImage {
        reference: registry.image("shop/known:1"),
        digest: Digest::Registry(format!("sha256:{}", "0".repeat(64))),
    };
    refused(host.fetch(&gone).await, OpErrorKind::ImageMissing, &["shop/known"]);
    let result = host.begin(spec("missing.0-a", gone, "")).await;
    refused(result, OpErrorKind::ImageMissing, &["shop/known", "missing.0-a"]);
    assert!(!host.has_container(&AllocId::known("missing.0-a")));
    let wrong = host.resolve("Shop/Web:1").await;
    refused(wrong, OpErrorKind::ImageMissing, &["Shop/Web:1", "lower"]);
}

#[tokio::test]
async fn a_registry_refuses_without_the_right_credentials_and_serves_with_them() {
    let Some(host) = Host::start() else { return };
    let Some(registry) = Registry::start().await else { return };
    let name = registry.image("private/web:1");
    registry.push(&host, "test/web:1", "private/web:1");

    let stranger = host.neighbour("c1", 2);
    let says = [name.as_str(), "docker login"];
    refused(stranger.resolve(&name).await, OpErrorKind::RegistryRefused, &says);
    registry.login(&stranger, "wrong");
    refused(stranger.resolve(&name).await, OpErrorKind::RegistryRefused, &says);
    registry.login(&stranger, "mill");
    registry_digest(&stranger.resolve(&name).await.unwrap());
}

#[tokio::test]
async fn a_login_file_that_cannot_be_read_is_named() {
    let Some(host) = Host::start() else { return };
    host.break_login();
    let result = host.resolve("127.0.0.1:1/web:1").await;
    refused(result, OpErrorKind::RegistryRefused, &["config.json", "repair or remove it"]);
}

#[tokio::test]
async fn a_registry_that_does_not_answer_is_down_and_later_serves() {
    let Some(host) = Host::start() else { return };
    let nobody = format!("127.0.0.1:{}/web:1", free_port());
    let says = [nobody.as_str(), "check that this node can reach"];
    refused(host.resolve(&nobody).await, OpErrorKind::RegistryDown, &says);

    let Some(mut registry) = Registry::start().await else { return };
    registry.push(&host, "test/web:1", "late/web:1");
    let name = registry.image("late/web:1");
    registry.stop();
    refused(host.resolve(&name).await, OpErrorKind::RegistryDown, &[&name]);
    registry.serve().await;
    registry_digest(&host.resolve(&name).await.unwrap());
}

/// An image whose bytes are nowhere but in the registry.
fn published(host: &Host, registry: &Registry, name: &str) -> String {
    let container = host.docker(&["create", "--network", "none", "test/web:1"]);
    let local = format!("test/{}", name.replace(['/', ':'], "-"));
    host.docker(&["commit", "--change", &format!("ENV NAME={name}"), &container, &local]);
    host.docker(&["rm", &container]);
    registry.push(host, &local, name);
    host.docker(&["rmi", &local]);
    registry.image(name)
}

fn is_here(host: &Host, name: &str) -> bool {
    host.try_docker(&["image", "inspect", name]).status.success()
}

/// One that has several names has as many lines.
fn images(host: &Host) -> usize {
    let listed = host.docker(&["image", "ls", "-aq", "--no-trunc"]);
    listed.lines().collect::<BTreeSet<_>>().len()
}

#[tokio::test]
async fn what_was_pulled_and_is_not_needed_goes_and_nothing_else() {
    // Alone: other tests bring images of their own.
    let Some(host) = Host::alone() else { return };
    let Some(registry) = Registry::start().await else { return };
    let names = ["prune/kept:1", "prune/used:1", "prune/gone:1", "prune/theirs:1"];
    let [kept, used, gone, theirs] = names.map(|name| published(&host, &registry, name));
    let before = images(&host);
    host.docker(&["pull", "-q", &theirs]);
    for name in [&kept, &used, &gone, &theirs] {
        host.resolve(name).await.unwrap();
    }
    let kept_image = host.resolve(&kept).await.unwrap();
    let used_image = host.resolve(&used).await.unwrap();
    let spec = spec("used.0-a", used_image, "exit 0");
    let alloc = spec.alloc.clone();
    host.begin(spec).await.unwrap();
    host.exit_of(&alloc).await;
    assert_eq!(images(&host), before + 4);

    // Another daemon, that has read what the first one wrote down.
    let host = host.restarted();
    host.prune(std::slice::from_ref(&kept_image)).await.unwrap();
    let here = [&kept, &used, &gone, &theirs].map(|name| is_here(&host, name));
    assert_eq!(here, [true, true, false, true], "a container is made of the second");
    host.fetch(&kept_image).await.unwrap();
    host.remove(&alloc).await.unwrap();
    host.prune(&[kept_image]).await.unwrap();
    let here = [&kept, &used, &gone, &theirs].map(|name| is_here(&host, name));
    assert_eq!(here, [true, false, false, true]);
    assert_eq!(images(&host), before + 2, "no bytes are left without a name");
    assert!(is_here(&host, "test/web:1") && is_here(&host, "test/web:2"));
}

#[tokio::test]
async fn what_a_tag_meant_before_goes_and_what_somebody_made_it_mean_since_stays() {
    let Some(host) = Host::alone() else { return };
    let Some(registry) = Registry::start().await else { return };
    let before = images(&host);
    let name = published(&host, &registry, "moves/web:latest");
    let first = host.resolve(&name).await.unwrap();
    host.docker(&["create", "--network", "none", "--name", "other", "test/web:2"]);
    let other = host.docker(&["commit", "other", "test/other"]);
    host.docker(&["rm", "other"]);
    // From another machine: the names that this one has stay.
    registry.push(&host, "test/other", "elsewhere/web:1");
    registry.copy("elsewhere/web:1", "moves/web:latest");
    let second = host.resolve(&name).await.unwrap();
    assert_ne!(registry_digest(&first), registry_digest(&second));
    host.prune(std::slice::from_ref(&second)).await.unwrap();
    host.fetch(&second).await.unwrap();
    assert_eq!(images(&host), before + 1, "what it meant first is gone");

    // Somebody tags another image so by hand.
    host.docker(&["tag", "test/web:1", &name]);
    host.prune(&[]).await.unwrap();
    let means = host.docker(&["image", "inspect", "-f", "{{.Id}}", &name]);
    assert_ne!(means, other);
    assert_eq!(means, host.docker(&["image", "inspect", "-f", "{{.Id}}", "test/web:1"]));
}
