//! `window-picture FILE.png`: a screenshot of a window on the host that shows a guest's desktop, for the README.
//! `cargo xtask picture` runs it. Everything in the picture is real: a guest, its compositor, the window, an X server.

use std::fs::File;
use std::io::BufWriter;
use std::process::{Command, ExitCode, Stdio};

use vmshm_vm_tests::desktop::Desktop;
use vmshm_vm_tests::machine::{Kind, Machine};
use vmshm_vm_tests::patience::{LATER, wait_for};
use vmshm_vm_tests::png_file::Picture;
use vmshm_vm_tests::program::vmshm;
use vmshm_vm_tests::x_server::XServer;

/// What the guest's second monitor measures.
const MODE: &str = "960x540";

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("error: which file?");
        return ExitCode::from(2);
    };
    let Some(server) = XServer::start(1000, 600) else {
        return ExitCode::from(2);
    };
    let mut manager = Command::new("openbox")
        .env("DISPLAY", &server.display)
        .stderr(Stdio::null())
        .spawn()
        .expect("openbox is installed");
    let machine = Machine::boot_as(Kind::UmlDesktop, "guest", &[]);
    let desktop = Desktop::start(&machine, "/run/user/1000");
    let before = desktop.output_names();
    let window = vmshm(["display", &machine.name, "--add", MODE])
        .environment("DISPLAY", &server.display)
        .environment("WAYLAND_DISPLAY", "")
        .start();
    let mut added = None;
    wait_for("the added output", LATER, || {
        added = desktop
            .output_names()
            .into_iter()
            .find(|name| !before.contains(name));
        added.is_some()
    });
    let added = added.expect("it was found");
    desktop.command("default_border pixel 2");
    desktop.command(&format!("output {added} bg #28323c solid_color"));
    desktop.command("gaps inner all set 8");
    let shell = |text: &str| format!("sh -c '{text}; sleep 3600'");
    desktop.terminal(
        &added,
        "system",
        &shell("uname -srm; echo; cat /etc/os-release | head -n 4; echo; free -h"),
    );
    desktop.terminal(&added, "outputs", &shell("wlr-randr; ls --color=always /"));
    desktop.command("split vertical");
    desktop.terminal(
        &added,
        "agent",
        &shell("for i in 1 2 3 4 5 6; do seq -s \" \" $i 16; done; date"),
    );
    let _ = server.window(&machine.name);
    let mut last: Option<Picture> = None;
    wait_for("a picture that stands still", LATER, || {
        std::thread::sleep(std::time::Duration::from_secs(1));
        let now = server.picture();
        let still = last.as_ref() == Some(&now);
        last = Some(now);
        still
    });
    write(&file, &last.expect("there is one"));
    drop(window);
    let _ = manager.kill();
    let _ = manager.wait();
    ExitCode::SUCCESS
}

fn write(file: &str, picture: &Picture) {
    let file = File::create(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let mut encoder = png::Encoder::new(BufWriter::new(file), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().expect("it can be written");
    writer
        .write_image_data(&picture.colours)
        .expect("it can be written");
    writer.finish().expect("it can be written");
}
