//! Both sides of a link within this process, over a mapped memfd: what applications use, without a VM.
//!
//! As in a guest, memory is mapped pages, a doorbell wakes a sleeper, and the right to write is looked at in words of
//! shared memory. There is one region, and each side opens it once.

use std::sync::Arc;
use std::time::Duration;

use vmshm_endpoint::{
    Connection, Doorbell, Held, OpenError, Presence, RegionOptions, Right, Side, Tether, Wish,
};
use vmshm_link::LinkError;
use vmshm_shm::{Mapping, SharedMemory};

use crate::memory;

/// What both sides share.
#[derive(Debug)]
struct World {
    region: Arc<Mapping>,
    rights: Arc<Mapping>,
    host: Arc<Tether>,
    guest: Arc<Tether>,
}

impl World {
    fn tether(&self, side: Side) -> &Arc<Tether> {
        match side {
            Side::Host => &self.host,
            Side::Guest => &self.guest,
        }
    }
}

/// One side.
#[derive(Debug)]
pub struct Local<const HOST: bool>(Arc<World>);

/// The two sides of one region of `size` bytes.
pub fn pair(
    size: u64,
) -> anyhow::Result<(RegionOptions<Local<true>>, RegionOptions<Local<false>>)> {
    let world = Arc::new(World {
        region: Arc::new(memory::shared(size)?.1),
        rights: Arc::new(memory::shared(1)?.1),
        host: Arc::default(),
        guest: Arc::default(),
    });
    let size = memory::size(size);
    Ok((
        RegionOptions::new(Arc::new(Local(Arc::clone(&world))), "bench").size(size),
        RegionOptions::new(Arc::new(Local(world)), "bench").size(size),
    ))
}

/// Two words that nobody takes away.
#[derive(Debug, Clone)]
pub struct Words(Arc<Mapping>);

impl Right for Words {
    #[inline]
    fn verify(&self) -> Result<(), LinkError> {
        for offset in [0, 0x100] {
            let value = self.0.load_relaxed(offset)?;
            if value != 0 {
                return Err(LinkError::Violation {
                    what: "the right",
                    value,
                });
            }
        }
        Ok(())
    }
}

/// Wakes the other side.
#[derive(Debug)]
struct Bell(Arc<Tether>);

impl Doorbell for Bell {
    fn ring(&self, _region: u64) {
        self.0.wake();
    }
}

impl<const HOST: bool> Connection for Local<HOST> {
    type Memory = Arc<Mapping>;
    type Right = Words;
    const SIDE: Side = if HOST { Side::Host } else { Side::Guest };

    fn open(&self, _wish: &Wish) -> Result<Held<Self>, OpenError> {
        let world = &self.0;
        Presence::read(&world.region, Self::SIDE)
            .and_then(|before| before.arrival().write(&world.region, Self::SIDE))
            .map_err(|error| OpenError::Unreachable {
                what: "the region's presence".to_owned(),
                source: error.into(),
                hint: None,
            })?;
        let bell = Bell(Arc::clone(world.tether(Self::SIDE.other())));
        Ok(Held {
            region: 1,
            memory: Arc::clone(&world.region),
            right: Words(Arc::clone(&world.rights)),
            tether: Arc::clone(world.tether(Self::SIDE)),
            doorbell: Some(Arc::new(bell)),
        })
    }

    fn close(&self, _region: u64) {}

    fn remove(&self, _name: &str, _timeout: Duration) -> Result<(), OpenError> {
        Ok(())
    }

    fn reconnect(&self, _timeout: Duration) -> Result<(), OpenError> {
        Ok(())
    }
}
