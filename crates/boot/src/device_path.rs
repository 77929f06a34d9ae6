//! What the loader reads from device paths (UEFI 2.10, chapter 10).

use crate::response::Origin;

/// The partition of a hard-drive node, from what follows its header (section 10.3.5.1).
pub fn hard_drive(node: &[u8]) -> Option<Origin> {
    const SIGNATURE_TYPE_GUID: u8 = 2;
    let partition_index = u32::from_le_bytes(node.get(..4)?.try_into().ok()?);
    let guid = node.get(20..36)?.try_into().ok()?;
    let partition_guid = if *node.get(37)? == SIGNATURE_TYPE_GUID { guid } else { [0; 16] };
    Some(Origin { partition_index, partition_guid })
}

/// Whether a device path, or one of several in a row, leads to a serial port (section 10.3.4.15): then what is
/// written to that console is on the line already.
pub fn leads_to_uart(path: &[u8]) -> bool {
    const MESSAGING_UART: [u8; 2] = [3, 14];
    let mut rest = path;
    while let [kind, subtype, low, high, ..] = *rest {
        if [kind, subtype] == MESSAGING_UART {
            return true;
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        match rest.get(length..) {
            Some(behind) if length >= 4 => rest = behind,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn partitions() {
        let mut node = vec![0; 38];
        node[0] = 3;
        node[20..36].copy_from_slice(&[9; 16]);
        assert_eq!(hard_drive(&node), Some(Origin { partition_index: 3, partition_guid: [0; 16] }));
        node[37] = 2;
        assert_eq!(hard_drive(&node), Some(Origin { partition_index: 3, partition_guid: [9; 16] }));
        assert_eq!(hard_drive(&node[..37]), None);
    }

    #[test]
    fn serial_ports() {
        let screen = [2, 3, 4, 0, 0x7f, 1, 4, 0];
        let serial = [2, 1, 6, 0, 0, 0, 3, 14, 4, 0, 0x7f, 0xff, 4, 0];
        assert!(!leads_to_uart(&screen));
        assert!(leads_to_uart(&serial));
        assert!(leads_to_uart(&[screen.as_slice(), &serial].concat()));
        assert!(!leads_to_uart(&[2, 1, 0, 0, 3, 14]), "a node without a length ends it");
        assert!(!leads_to_uart(&[]));
    }
}
