// SPDX-License-Identifier: Apache-2.0
/**
 * What a host may do besides what Linux's driver does (server/hypervisor/README.md, section 18). `pkvm` refuses all of it by
 * design, `full` takes all of it. None touches the isolation.
 */
export interface Choices {
  /**
   * The frame as IHI 0070 section 6.2 has it: halves of 64-bit registers; what is reserved, or written where it can only be
   * read, reads as zero and ignores writes. CR1 of the hardware is the hypervisor's, and set at reset.
   */
  readonly wholeFrame: boolean
  /** Stream tables of any format, SPLIT and size, whatever the shadow has. */
  readonly anyStreamTable: boolean
  /**
   * Entries are shadowed by whatever makes hardware fetch them: CFGI_STE with Leaf = 0, CFGI_STE_RANGE, CFGI_ALL, SMMUEN. An
   * entry that is not there, or that the architecture calls ILLEGAL, is no mistake of the host's.
   */
  readonly anyInvalidation: boolean
  /** SMMUEN and CMDQEN do not depend on each other, and queues may be disabled at any time. */
  readonly independentEnables: boolean
  /** Structures of the host may lie in the same page. */
  readonly commonPages: boolean
}

/** What Linux's driver does, and nothing else. */
export const LINUX_ONLY: Choices = {
  wholeFrame: false,
  anyStreamTable: false,
  anyInvalidation: false,
  independentEnables: false,
  commonPages: false,
}

/** What the architecture allows. */
export const ARCHITECTURE: Choices = {
  wholeFrame: true,
  anyStreamTable: true,
  anyInvalidation: true,
  independentEnables: true,
  commonPages: true,
}

export const CHOICE_NAMES = Object.keys(LINUX_ONLY) as readonly (keyof Choices)[]

/** As a number, for a checkpoint: a bit for each. */
export const choiceBits = (choices: Choices): number =>
  CHOICE_NAMES.reduce((bits, name, i) => bits | (choices[name] ? 1 << i : 0), 0)
