//! What the fuzz target does with a settings file.

use super::*;

/// Settings can be used, or what is wrong is said shortly and without passwords.
pub(crate) fn settings(text: &str) {
    match Settings::of(Some("m.toml".into()), text, &Flags::default(), []) {
        Ok(settings) => {
            let worker = &settings.worker;
            assert!(!worker.queues.is_empty());
            let slots = worker.slots();
            assert!(slots.asyncs + slots.threads + slots.processes > 0);
            for task in settings.tasks.values() {
                assert!(!task.command[0].is_empty());
                let limits = [task.soft_timeout, task.timeout].into_iter().flatten();
                assert!(limits.clone().is_sorted() && limits.clone().all(|limit| !limit.is_zero()));
            }
        }
        Err(error) => {
            let said = error.to_string();
            assert!(said.lines().count() < 100, "{said}");
            // In a value; who writes a password where a key stands reads it there.
            let secret = |line: &str| {
                line.split_once(":/").is_some_and(|(key, url)| {
                    key.contains('=')
                        && !key.contains("canary")
                        && url.rsplit_once('@').is_some_and(|(login, _)| login.contains("canary"))
                })
            };
            let hidden = text.matches("canary").count() == 1 && text.lines().any(secret);
            assert!(!hidden || !said.contains("canary"), "{said}");
        }
    }
}
