// SPDX-License-Identifier: Apache-2.0
/** Findings on the guest's console: oopses, panics, I/O errors, time-outs. */
import type { Verdict } from '../faults/rule.ts'

/** A line of the console with a verdict. */
export interface ConsoleFinding {
  readonly verdict: Verdict
  readonly line: string
}

/** The first match decides. `recovered`: the driver reported an error, and nothing worse. */
const PATTERNS: readonly (readonly [RegExp, Verdict])[] = [
  [/Kernel panic - not syncing/, 'guest-panic'],
  // Before the oopses, which also contain BUG.
  [
    /INFO: task .* blocked for more than|BUG: (soft lockup|workqueue lockup)|hard LOCKUP|rcu: INFO: .*(stall|detected)/,
    'guest-hung',
  ],
  [
    /Unable to handle kernel|Internal error: |\bOops\b|kernel BUG at|BUG: |Synchronous External Abort|SError Interrupt|Bad mode in/i,
    'guest-oops',
  ],
  [
    /arm-smmu-v3.*(time ?out|timed out|not responding|failed to (write|clear|enable|disable|update))|CMD_SYNC timeout|NETDEV WATCHDOG|transmit queue .* timed out|nvme nvme\d+: .*(timeout|controller is down)|Tx Unit Hang/i,
    'driver-timeout',
  ],
  [/I\/O error|Buffer I\/O error|EXT4-fs error/, 'io-error'],
  [/arm-smmu-v3.*(SFM|Service Failure)/i, 'degraded'],
  [/WARNING: CPU: \d+ PID: \d+ at /, 'recovered'],
  [
    /arm-smmu-v3.*(unexpected|event 0x|event: |error|fault|overflow|aborted|unhandled|skip|CERROR|GERROR|out of order|retry)|virtio.*(id \d+ is not a head|Guest moved)|Detected Hardware|Reset adapter/i,
    'recovered',
  ],
]

/** Verdict of a line; undefined for most lines. Reports of the guest's own workload do not count. */
export function readConsoleLine(line: string): ConsoleFinding | undefined {
  if (line.includes('@cosim ')) return undefined
  const found = PATTERNS.find(([pattern]) => pattern.test(line))
  return found && { verdict: found[1], line: line.slice(0, 300) }
}

/** Adds the finding of a line, at most `most` of each verdict, so that one kind does not displace others. @returns the new finding */
export function addFinding(findings: ConsoleFinding[], line: string, most: number): ConsoleFinding | undefined {
  const finding = readConsoleLine(line)
  if (finding === undefined || findings.filter(({ verdict }) => verdict === finding.verdict).length >= most)
    return undefined
  findings.push(finding)
  return finding
}
