//! Host library: virtual machines, regions and links.
