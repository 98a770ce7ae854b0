//! A map with typed keys and values, on top of a file descriptor of its own.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, AsRawFd},
};

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, libbpf_sys};

use crate::{Error, skel::Plain};

/// Index of an array map.
pub(crate) type Index = u32;

// SAFETY: an integer has no padding and no invalid values.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for u8 {}

/// A map of `V` by `K`. Owns its file descriptor; any thread may use it, the kernel serialises.
#[derive(Debug)]
pub(crate) struct Map<K, V> {
    handle: MapHandle,
    name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Duplicates the map's file descriptor, so that it outlives the libbpf object.
    pub fn new(name: &'static str, map: &libbpf_rs::MapMut<'_>) -> Result<Self, Error> {
        let handle = MapHandle::try_from(&**map).map_err(Error::bpf("duplicate a map's file descriptor"))?;
        assert_eq!(handle.key_size() as usize, size_of::<K>(), "key of {name}");
        assert_eq!(handle.value_size() as usize, size_of::<V>(), "value of {name}");
        Ok(Self { handle, name, types: PhantomData })
    }

    pub fn try_clone(&self) -> Result<Self, Error> {
        let handle =
            MapHandle::try_from(&self.handle).map_err(Error::bpf("duplicate a map's file descriptor"))?;
        Ok(Self { handle, name: self.name, types: PhantomData })
    }

    pub fn handle(&self) -> &MapHandle {
        &self.handle
    }

    pub fn insert(&self, key: &K, value: &V) -> Result<(), Error> {
        // By hand, since libbpf-rs keeps the errno to itself.
        // SAFETY: key and value are as long as the map's, which new() has checked.
        let answer = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.handle.as_fd().as_raw_fd(),
                key.bytes().as_ptr().cast(),
                value.bytes().as_ptr().cast(),
                libbpf_sys::BPF_ANY.into(),
            )
        };
        match answer {
            0 => Ok(()),
            // Hash maps answer E2BIG, tries ENOSPC.
            e if e == -libc::E2BIG || e == -libc::ENOSPC => {
                Err(Error::Full { map: self.name, limit: self.handle.max_entries() })
            }
            e => Err(Error::answer("write to a map", e)),
        }
    }

    /// The value, if there is one.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        let value = self.handle.lookup(key.bytes(), MapFlags::ANY).map_err(Error::bpf("read from a map"))?;
        Ok(value.and_then(|bytes| V::from_bytes(&bytes)))
    }

    /// Whether there was an entry.
    pub fn remove(&self, key: &K) -> Result<bool, Error> {
        match self.handle.delete(key.bytes()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Bpf { what: "delete from a map", source }),
        }
    }

    /// The values of all CPUs (per-CPU maps).
    pub fn get_percpu(&self, key: &K) -> Result<Vec<V>, Error> {
        let values =
            self.handle.lookup_percpu(key.bytes(), MapFlags::ANY).map_err(Error::bpf("read from a map"))?;
        Ok(values.unwrap_or_default().iter().filter_map(|bytes| V::from_bytes(bytes)).collect())
    }

    /// Writes the same value for all CPUs (per-CPU maps).
    pub fn set_percpu(&self, key: &K, value: &V) -> Result<(), Error> {
        let cpus = libbpf_rs::num_possible_cpus().map_err(Error::bpf("count the CPUs"))?;
        self.handle
            .update_percpu(key.bytes(), &vec![value.bytes().to_vec(); cpus], MapFlags::ANY)
            .map_err(Error::bpf("write to a map"))
    }
}
