//! Single rules, one test each.
