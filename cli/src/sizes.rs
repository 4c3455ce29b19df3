//! Sizes, as people write them.

/// Reads `512MiB`, `2GiB`, `64KiB`, `4096B`, and the decimal `64kB`, `64MB`, `2GB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write 65536B, 64KiB, 512MiB or 2GiB");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let each: u64 = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(each).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_not() {
        for (text, want) in [
            ("512MiB", 512 << 20),
            ("2GiB", 2 << 30),
            ("64KiB", 64 << 10),
            ("0B", 0),
            ("64MB", 64_000_000),
            ("1kB", 1_000),
        ] {
            assert_eq!(bytes(text), Ok(want), "{text}");
        }
        for text in ["", "MiB", "512", "1.5GiB", "-1B", "512mib", "99999999999GiB", "5 MiB"] {
            assert!(bytes(text).unwrap_err().contains("is no size"), "{text}");
        }
    }
}
