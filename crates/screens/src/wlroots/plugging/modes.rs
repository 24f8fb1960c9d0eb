//! Which modes an output can have, and how each is asked for: by sway's command, or by
//! wlr-output-management.

use vmshm_channel::Size;
use vmshm_link::frames::Mode;
use wayland_client::QueueHandle;

use super::super::desk::Desk;
use super::super::outputs::{Output, in_words, is_virtual};
use super::super::sway::is_plain;

/// Whether an output has this size.
pub(super) fn is_it(output: &Output, mode: Size) -> bool {
    output.mode.width == mode.width && output.mode.height == mode.height
}

/// Why no screen can have this mode, if so.
pub(super) fn impossible(mode: Size) -> Option<String> {
    let possible = Mode {
        width: mode.width,
        height: mode.height,
        refresh_millihertz: mode.refresh_millihertz,
    }
    .is_possible();
    let Size { width, height, .. } = mode;
    (!possible).then(|| format!("no screen can have {width}x{height}"))
}

/// Why this output cannot have this mode, if that is clear beforehand.
pub(super) fn missing(output: &Output, mode: Size, desk: &Desk) -> Option<String> {
    let modes = output.all_modes(&desk.heads);
    let has = |one: &Size| one.width == mode.width && one.height == mode.height;
    let fits = is_virtual(&output.name) || modes.iter().any(has);
    let Size { width, height, .. } = mode;
    (!fits).then(|| {
        format!(
            "{} has no mode {width}x{height}; it has {}",
            output.name,
            in_words(&modes)
        )
    })
}

/// Why it does not have it after all.
pub(super) fn not_so(name: &str, mode: Size, why: &str, desk: &Desk) -> String {
    let Size { width, height, .. } = mode;
    let output = desk.output_named(name);
    let modes = output.map(|output| in_words(&output.all_modes(&desk.heads)));
    let modes = modes.map_or_else(String::new, |modes| format!("; it has {modes}"));
    format!("{name} cannot be {width}x{height}: {why}{modes}")
}

/// Sway's command for a mode.
pub(super) fn mode_command(name: &str, mode: Size) -> Result<String, String> {
    if !is_plain(name) {
        return Err(format!("{name:?} is no name for a command"));
    }
    let custom = if is_virtual(name) { "--custom " } else { "" };
    let Size {
        width,
        height,
        refresh_millihertz,
    } = mode;
    let refresh = match refresh_millihertz {
        0 => String::new(),
        some => format!("@{}.{:03}Hz", some / 1000, some % 1000),
    };
    Ok(format!(
        "output {name} mode {custom}{width}x{height}{refresh}"
    ))
}

/// Has the compositor try a configuration in which one head has another mode.
pub(super) fn configure(
    name: &str,
    mode: Size,
    desk: &Desk,
    handle: &QueueHandle<Desk>,
    number: u64,
) -> Result<(), String> {
    let ready = desk.manager.as_ref().zip(desk.serial);
    let Some((manager, serial)) = ready else {
        return Err("this compositor does not let others set modes".to_owned());
    };
    if !desk.heads.iter().any(|head| head.name == name) {
        return Err(format!("{name} cannot be arranged"));
    }
    let configuration = manager.create_configuration(serial, handle, number);
    for head in &desk.heads {
        if head.name != name && !head.enabled {
            configuration.disable_head(&head.proxy);
            continue;
        }
        let one = configuration.enable_head(&head.proxy, handle, ());
        if head.name != name {
            continue;
        }
        let wanted = |size: &Size| {
            let refresh = [size.refresh_millihertz, 0];
            size.width == mode.width
                && size.height == mode.height
                && refresh.contains(&mode.refresh_millihertz)
        };
        let signed = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        match head.modes.iter().find(|mode| wanted(&mode.size)) {
            Some(known) => one.set_mode(&known.proxy),
            None => one.set_custom_mode(
                signed(mode.width),
                signed(mode.height),
                signed(mode.refresh_millihertz),
            ),
        }
    }
    configuration.apply();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Size = Size {
        width: 1920,
        height: 1080,
        refresh_millihertz: 0,
    };

    #[test]
    fn commands_are_as_sway_takes_them() {
        let command = |name, mode| mode_command(name, mode).expect("is plain");
        assert_eq!(
            command("HEADLESS-2", FULL),
            "output HEADLESS-2 mode --custom 1920x1080"
        );
        let fast = Size {
            refresh_millihertz: 59_940,
            ..FULL
        };
        assert_eq!(command("DP-1", fast), "output DP-1 mode 1920x1080@59.940Hz");
        assert!(mode_command("a; exit", FULL).is_err());
    }
}
