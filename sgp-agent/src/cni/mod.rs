//! The CNI plugin: wires pods that have a branch, delegates all others.
