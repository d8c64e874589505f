// SPDX-License-Identifier: Apache-2.0
/**
 * Known defects of the posted versions (server/hypervisor/README.md, section 13), each a decision that is made otherwise where
 * the policy's options name it. None is on by default. Those whose effect reaches other pages than the host's are for the
 * attacker to find.
 */
import { checkQuirks, type QuirkTable } from '../../policy/policy.ts'

export const QUIRKS = {
  'cmd-sync-msi': {
    versions: 'v6-era',
    effect: 'CMD_SYNC with CS = IRQ is rewritten in a local copy only: the MSI address reaches the hardware',
  },
  'ste-word0-first': {
    versions: 'v6-era',
    effect: 'abort → translate writes word 0 first: the entry is live while words 2 and 3 are zero',
  },
  'ste-config-110': {
    versions: 'v6-era',
    effect: "the host's STE with stage 2 only is accepted",
  },
  'queue-base-unaligned': {
    versions: 'v4–v6',
    effect: 'EVTQ_BASE or PRIQ_BASE not aligned to the size: other pages are shared than the hardware writes',
  },
  'span-ignored': {
    versions: 'v4–v6',
    effect: 'Span of the L1 descriptor is not looked at, L2Ptr is used unaligned',
  },
  'pool-leak': {
    versions: 'v6-era',
    effect: 'a refused STE has taken an L2 table already: the pool runs dry',
  },
  'cmdqs-unchecked': {
    versions: 'all',
    effect: 'IDR1.CMDQS < 12, and 4,096 entries all the same',
  },
  'batch-over-4096': {
    versions: 'v6-era',
    effect: 'more commands in one write of PROD than the shadow queue has entries',
  },
  'irq-cfg-msi': {
    versions: 'all',
    effect: 'GERROR, EVTQ and PRIQ_IRQ_CFG0 reach the hardware: with IDR0.MSI = 1 it writes there, past stage 2',
  },
  eats: {
    versions: 'all',
    effect: 'STE.EATS and CR0.ATSCHK pass: a device with ATS keeps physical addresses and uses them past the SMMU',
  },
  'no-tlbi-while-off': {
    versions: 'all',
    effect: 'SMMUEN = 0 gets no invalidation: what its TLB kept is used when it is enabled again',
  },
  'power-unowned': {
    versions: 'all',
    effect: 'the host switches SMMUs off and on by itself: they come back with base registers that nobody wrote',
  },
  'shutdown-panics': {
    versions: 'all',
    effect: 'CR0 = 0 with EVTQEN set is fatal',
  },
  'idmap-never-initialised': {
    versions: 'v4',
    effect: 'donated pages stay reachable',
  },
  'vmid-check-void': {
    versions: 'v4',
    effect: 'TLBI_NH_* for another VMID pass',
  },
  's2-ipa-unfiltered': {
    versions: 'v4',
    effect: 'TLBI_S2_IPA passes',
  },
  'cfgi-all-range-warns-only': {
    versions: 'v4',
    effect: 'CFGI_STE_RANGE with another range warns and passes',
  },
  'queues-unshared': {
    versions: 'v4',
    effect: 'memory of the event and PRI queue is not shared and pinned',
  },
  'bypass-shcfg-ored': {
    versions: 'v4',
    effect: "SHCFG is OR-ed into the host's",
  },
  'no-s2ptw': {
    versions: 'v4',
    effect: 'S2PTW is not set',
  },
  'l1-double-fetch': {
    versions: 'between v4 and v6',
    effect: 'the L1 descriptor is read twice',
  },
  'l2-share-unchecked': {
    versions: 'between v4 and v6',
    effect: 'a failure to share the L2 table is ignored',
  },
  'gbpa-attributes-lost': {
    versions: 'between v4 and v6',
    effect: 'GBPA is written without its other fields',
  },
} as const satisfies QuirkTable

export type QuirkName = keyof typeof QUIRKS

/** The quirks that a hypervisor has. */
export type Quirks = ReadonlySet<QuirkName>

const isQuirk = (name: string): name is QuirkName => Object.hasOwn(QUIRKS, name)

/** @throws Error that names the quirks there are */
export function quirksOf(names: readonly string[] = []): Quirks {
  checkQuirks('pkvm', QUIRKS, names)
  return new Set(names.filter(isQuirk))
}
