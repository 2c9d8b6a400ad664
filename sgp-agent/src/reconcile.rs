//! The loop: observe, desire, plan, apply.
