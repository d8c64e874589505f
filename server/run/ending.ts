// SPDX-License-Identifier: Apache-2.0
/** What a run can end with. */

export const OUTCOMES = {
  ok: 'the guest did its workload and powered off; every check passed',
  'guest-failed': 'the guest ended, but a check failed, it panicked, or it never said that it was done',
  'guest-hung': 'the guest was still running at --timeout, or waited for the SMMU in vain',
  'qemu-died': 'QEMU ended by itself with an error',
  'server-died': 'the trap thread ended, or broke off the connection',
  'hyp-panic': 'a hyp warning with --panic-on-warn',
  'isolation-violation':
    'something reached what the policy says that it isolates, found by the guest, by EL2’s tables, or by --oracle',
  'not-judged':
    'all went well, but --oracle had nothing to hold the machine against: a run that asks for it passes only if it is judged',
  'not-recorded': 'all went well, but records are missing, and --require-recording asks for all of them',
  interrupted: 'ended from outside (Ctrl-C, SIGTERM)',
} as const

export type Outcome = keyof typeof OUTCOMES

export interface Ending<O extends string> {
  readonly outcome: O
  readonly message: string
}
