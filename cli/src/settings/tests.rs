use super::*;

/// Settings from a file with this text, these variables and these flags.
fn load(text: &str, env: &[(&str, &str)], broker: Option<&str>) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags {
        config: Some(path),
        broker: broker.map(str::to_owned),
        ..Flags::default()
    };
    let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    Settings::from(&flags, env).map_err(|e| e.to_string().replace(&dir.path().display().to_string(), ""))
}

#[test]
fn the_example_of_the_readme_is_understood() {
    let settings = load(
        r#"
            broker = "sqlite:millhand.db"
            store  = "sqlite:millhand.db"
            [worker]
            queues = ["default", "slow"]
            async = 100
            threads = 2
            processes = 2
            grace = "5s"
            health = "127.0.0.1:7701"
            recycle_jobs = 1000
            recycle_memory = "256MiB"
            [tasks.wordcount]
            command = ["wc", "-w"]
            timeout = "30s"
            retries = 3
            [tasks."billing.send"]
            child = ["python3", "billing.py"]
            soft_timeout = "20s"
            crashes = 1
            slots = 2
            memory = "512MiB"
        "#,
        &[],
        None,
    );
    let settings = settings.unwrap();
    assert_eq!(settings.broker, BackendUrl::Sqlite("millhand.db".into()));
    assert_eq!(
        (settings.worker.asyncs, settings.worker.grace),
        (100, Duration::from_secs(5))
    );
    assert_eq!(settings.worker.queues.len(), 2);
    assert_eq!(settings.worker.health, Some(([127, 0, 0, 1], 7701).into()));
    let recycle = Recycle {
        jobs: Some(1000),
        memory: Some(256 << 20),
    };
    assert_eq!(settings.worker.recycle, recycle);
    let task = &settings.tasks["wordcount"];
    assert_eq!(task.command, ["wc", "-w"]);
    assert_eq!((task.timeout, task.retries), (Some(Duration::from_secs(30)), Some(3)));
    assert_eq!(task.kind, CommandKind::Command);
    let want = TaskSettings {
        command: ["python3", "billing.py"].map(str::to_owned).to_vec(),
        kind: CommandKind::Child,
        soft_timeout: Some(Duration::from_secs(20)),
        crashes: Some(1),
        slots: Some(2),
        memory: Some(512 << 20),
        ..TaskSettings::default()
    };
    assert_eq!(settings.tasks["billing.send"], want);
}

#[test]
fn a_file_without_an_end_is_no_settings_file() {
    let of = |path: &str| {
        let flags = Flags {
            config: Some(path.into()),
            ..Flags::default()
        };
        Settings::from(&flags, []).map_err(|error| error.to_string())
    };
    let error = of("/dev/zero").unwrap_err();
    assert!(error.contains("/dev/zero: it is longer than 4 MiB"), "{error}");
    let error = of("/dev").unwrap_err();
    assert!(error.contains("it is a folder"), "{error}");
    of("/dev/null").unwrap();

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.toml");
    for (bytes, fits) in [(limits::SETTINGS_BYTES, true), (limits::SETTINGS_BYTES + 1, false)] {
        std::fs::write(&path, "#".repeat(bytes)).unwrap();
        assert_eq!(of(path.to_str().unwrap()).is_ok(), fits, "{bytes} bytes");
    }
}

#[test]
fn flags_rule_over_the_environment_and_that_over_the_file() {
    let file = "broker = \"sqlite:file.db\"\n[worker]\nprocesses = 1\nthreads = 1";
    let env = [
        ("MILLHAND_BROKER", "sqlite:env.db"),
        ("MILLHAND_WORKER__PROCESSES", "7"),
        ("MILLHAND_WORKER__QUEUES", "a, b"),
        ("MILLHAND_WORKER__RECYCLE_JOBS", "3"),
        ("MILLHAND_WORKER__RECYCLE_MEMORY", "64MB"),
        ("MILLHAND_JOB_ID", "x"),
        ("MILLHAND_LOG", "debug"),
        ("OTHER", "x"),
    ];
    let settings = load(file, &env, None).unwrap();
    assert_eq!(settings.broker, BackendUrl::Sqlite("env.db".into()));
    assert_eq!((settings.worker.processes, settings.worker.threads), (Some(7), Some(1)));
    assert_eq!(settings.worker.queues, ["a", "b"].map(|q| QueueName::new(q).unwrap()));
    let recycle = Recycle {
        jobs: Some(3),
        memory: Some(64_000_000),
    };
    assert_eq!(settings.worker.recycle, recycle);
    let settings = load(file, &env, Some("sqlite:flag.db")).unwrap();
    assert_eq!(settings.broker, BackendUrl::Sqlite("flag.db".into()));
    assert_eq!(load("", &[], None).unwrap().worker, WorkerSettings::default());
}

#[test]
fn what_is_not_understood_is_refused_with_source_key_value_and_the_nearest_right_key() {
    for (text, want) in [
        (
            "brokr = \"memory:\"",
            "/m.toml: brokr: this is no setting; did you mean broker?",
        ),
        (
            "[worker]\nproceses = 4",
            "/m.toml: worker.proceses: this is no setting; did you mean worker.processes?",
        ),
        (
            "processes = 4",
            "/m.toml: processes: this is no setting; did you mean worker.processes?",
        ),
        (
            "[tasks.a]\ncommand = [\"a\"]\ntimout = \"1s\"",
            "/m.toml: tasks.a.timout: this is no setting; did you mean tasks.a.timeout?",
        ),
        (
            "colour = 1",
            "/m.toml: colour: this is no setting; there is broker, store, worker, tasks",
        ),
        (
            "[worker]\nasync = \"many\"",
            "/m.toml: worker.async = \"many\": it must be a whole number from 0 to 10000",
        ),
        (
            "[worker]\nasync = \"4\"",
            "/m.toml: worker.async = \"4\": it must be a whole number from 0 to 10000",
        ),
        (
            "[worker]\nthreads = -1",
            "/m.toml: worker.threads = -1: it must be a whole number from 0 to 10000",
        ),
        (
            "[worker]\nthreads = 10001",
            "/m.toml: worker.threads = 10001: it must be a whole number from 0 to 10000",
        ),
        (
            "[worker]\nasync = 0\nthreads = 0\nprocesses = 0",
            "/m.toml: worker.async, worker.threads and worker.processes are all 0: a worker needs a slot",
        ),
        (
            "[worker]\nqueues = []",
            "/m.toml: worker.queues = []: a worker needs at least one queue",
        ),
        (
            "[worker]\nqueues = [\"a\", \"a\"]",
            "/m.toml: worker.queues = [\"a\", \"a\"]: \"a\" stands twice",
        ),
        (
            "[worker]\ngrace = 30",
            "/m.toml: worker.grace = 30: it must be a duration, as \"30s\" or \"5m\"",
        ),
        (
            "[worker]\ngrace = \"soon\"",
            "/m.toml: worker.grace = \"soon\": \"soon\" is no duration: write 500ms, 30s, 5m, 2h, 1d or 1h30m",
        ),
        (
            "[worker]\nrecycle_jobs = 0",
            "/m.toml: worker.recycle_jobs = 0: it must be a whole number from 1 to 1000000000",
        ),
        (
            "[worker]\nrecycle_memory = 256",
            "/m.toml: worker.recycle_memory = 256: it must be a size, as \"512MiB\" or \"2GiB\"",
        ),
        (
            "[worker]\nrecycle_memory = \"4KiB\"",
            "/m.toml: worker.recycle_memory = \"4KiB\": it must be at least 1.0 MiB",
        ),
        (
            "[worker]\nrecycle_job = 3",
            "/m.toml: worker.recycle_job: this is no setting; did you mean worker.recycle_jobs?",
        ),
        (
            "[worker]\nhealth = \"localhost\"",
            "/m.toml: worker.health = \"localhost\": it must be an address with a port, as \"127.0.0.1:7701\"",
        ),
        ("worker = 3", "/m.toml: worker = 3: it must be a table"),
        (
            "[tasks.a]\nretries = 1",
            "/m.toml: tasks.a has no command, as command = [\"wc\", \"-w\"], \
             and no child, as child = [\"python3\", \"tasks.py\"]",
        ),
        (
            "[tasks.a]\ncommand = \"wc -w\"",
            "/m.toml: tasks.a.command = \"wc -w\": it must be a list of text, as [\"a\", \"b\"]",
        ),
        (
            "[tasks.a]\ncommand = []",
            "/m.toml: tasks.a.command = []: it must name a program, as [\"wc\", \"-w\"]",
        ),
        (
            "[tasks.a]\ncommand = [\"a\"]\nchild = [\"b\"]",
            "/m.toml: tasks.a has a command and a child: it is one or the other",
        ),
        (
            "[tasks.a]\nchild = [\"\"]",
            "/m.toml: tasks.a.child = [\"\"]: it must name a program, as [\"wc\", \"-w\"]",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nslots = 0",
            "/m.toml: tasks.a.slots = 0: it must be a whole number from 1 to 10000",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\ncrashes = 0",
            "/m.toml: tasks.a.crashes = 0: it must be a whole number from 1 to 1000",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nmemory = 512",
            "/m.toml: tasks.a.memory = 512: it must be a size, as \"512MiB\" or \"2GiB\"",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nmemory = \"lots\"",
            "/m.toml: tasks.a.memory = \"lots\": \"lots\" is no size: write 65536B, 64KiB, 512MiB or 2GiB",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nmemory = \"4KiB\"",
            "/m.toml: tasks.a.memory = \"4KiB\": it must be at least 1.0 MiB",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nsoft_timeout = \"30s\"\ntimeout = \"30s\"",
            "/m.toml: tasks.a.soft_timeout = \"30s\": it must be shorter than the timeout, \"30s\"",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nsoft_timeout = \"2h\"",
            "/m.toml: tasks.a.soft_timeout = \"2h\": it must be shorter than the timeout, 1h unless it is set",
        ),
        (
            "[tasks.a]\nchild = [\"a\"]\nsofttimeout = \"2h\"",
            "/m.toml: tasks.a.softtimeout: this is no setting; did you mean tasks.a.soft_timeout?",
        ),
        (
            "[tasks.a]\ncommand = [\"a\"]\nretries = 1001",
            "/m.toml: tasks.a.retries = 1001: it must be a whole number from 0 to 1000",
        ),
        (
            "[tasks.a]\ncommand = [\"a\"]\ntimeout = \"0s\"",
            "/m.toml: tasks.a.timeout = \"0s\": it must be more than nothing and at most 366 days",
        ),
        ("broker = 5", "/m.toml: broker = 5: it must be text"),
        (
            "broker = \"x.db\"",
            "/m.toml: broker = \"x.db\": it must be sqlite:FILE or memory:, \
             or amqp://HOST with a store at redis://HOST",
        ),
        (
            "store = \"sqlite:other.db\"",
            "/m.toml: store = \"sqlite:other.db\": it must be the same as the broker, or not be set",
        ),
        (
            "broker = \"amqp://ana:canary@h/\"",
            "/m.toml: broker = \"amqp://…\": RabbitMQ needs a store beside it: redis://HOST",
        ),
        (
            "broker = \"amqp://h/?ns=a\"\nstore = \"redis://:canary@h/?ns=b\"",
            "/m.toml: store = \"redis://…\": its namespace is \"b\", \
             and the broker's is \"a\": ns must be the same in both",
        ),
        (
            "broker = \"amqp://ana:5/canary@h\"\nstore = \"redis://h\"",
            "/m.toml: broker = \"amqp://…\": an @ stands after its host; in a password, @ is written %40, / %2F, ? %3F, \
             # %23 and % %25",
        ),
        (
            "broker = \"ana:canary@h\"",
            "/m.toml: broker = \"…\": it must be sqlite:FILE or memory:, or amqp://HOST with a store at redis://HOST",
        ),
        (
            "broker = \"amqp://ana:canary@h",
            "/m.toml: TOML parse error at line 1, column 30: invalid basic string, expected `\"`",
        ),
        (
            "store = \"redis://h/\"",
            "/m.toml: store = \"redis://…\": Redis is the store of RabbitMQ: the broker must be amqp://HOST",
        ),
    ] {
        assert_eq!(load(text, &[], None).unwrap_err(), want, "{text}");
    }
}

#[test]
fn a_bad_variable_or_flag_is_named() {
    for (name, value, want) in [
        (
            "MILLHAND_WORKER__PROCESES",
            "2",
            "MILLHAND_WORKER__PROCESES: this is no setting; did you mean MILLHAND_WORKER__PROCESSES?",
        ),
        (
            "MILLHAND_WORKER_PROCESSES",
            "2",
            "MILLHAND_WORKER_PROCESSES: this is no setting; did you mean MILLHAND_WORKER__PROCESSES?",
        ),
        (
            "MILLHAND_WORKER__PROCESSES",
            "",
            "MILLHAND_WORKER__PROCESSES = \"\": it must be a whole number from 0 to 10000",
        ),
        (
            "MILLHAND_WORKER__RECYCLE_MEMORY",
            "lots",
            "MILLHAND_WORKER__RECYCLE_MEMORY = \"lots\": \
             \"lots\" is no size: write 65536B, 64KiB, 512MiB or 2GiB",
        ),
        (
            "MILLHAND_BROKER",
            "http://u:canary@h",
            "MILLHAND_BROKER = \"http://…\": it must be sqlite:FILE or memory:, \
             or amqp://HOST with a store at redis://HOST",
        ),
    ] {
        assert_eq!(load("", &[(name, value)], None).unwrap_err(), want);
    }
    let flags = Flags {
        health: Some("7701".to_owned()),
        ..Flags::default()
    };
    assert_eq!(
        Settings::from(&flags, []).unwrap_err().to_string(),
        "--health = \"7701\": it must be an address with a port, as \"127.0.0.1:7701\""
    );
    let flag = load("", &[], Some("x")).unwrap_err();
    assert_eq!(
        flag,
        "--broker = \"x\": it must be sqlite:FILE or memory:, \
             or amqp://HOST with a store at redis://HOST"
    );
    let both = load("a = 1\nb = 2", &[], None).unwrap_err();
    assert_eq!(both.lines().count(), 2, "{both}");
}

#[test]
fn a_file_that_is_no_settings_file_is_refused_with_its_name() {
    let broken = load("broker = \n[[", &[], None).unwrap_err();
    assert!(broken.starts_with("/m.toml: ") && broken.contains("line 1"), "{broken}");
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().to_owned(), dir.path().join("missing.toml")] {
        let flags = Flags {
            config: Some(path.clone()),
            ..Flags::default()
        };
        let error = Settings::from(&flags, []).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()), "{error}");
    }
}
