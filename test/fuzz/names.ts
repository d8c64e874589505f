// SPDX-License-Identifier: Apache-2.0

/** What is fuzzed, in this order; each is the module of that name in targets/. */
export const TARGETS = ['codec', 'frames', 'checkpoint', 'recording', 'rules', 'api'] as const
/** Those that are tried only when they are named: QEMU has to be built for them. */
export const NAMED = ['qemu', 'qemuRing'] as const
export type TargetName = (typeof TARGETS | typeof NAMED)[number]
