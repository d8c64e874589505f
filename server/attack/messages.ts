// SPDX-License-Identifier: Apache-2.0
/** What an attack's threads tell each other. */
import type { CampaignOptions, CampaignStats } from './campaign.ts'
import type { Case } from './cases.ts'
import type { Weakness } from './known.ts'
import type { Program } from './program.ts'

/** A case, and where it is. */
export interface Found {
  readonly found: Case
  readonly file: string | undefined
  /** Since the start of the attack; undefined: a case of the corpus. */
  readonly seconds: number | undefined
}

export interface WorkerOptions extends CampaignOptions {
  /** Ends after so many seconds or operations, whichever comes first. */
  readonly seconds: number | undefined
  readonly operations: number | undefined
  /** Programs to start from. */
  readonly programs: readonly Program[]
}

export type WorkerMessage =
  | { readonly type: 'progress'; readonly stats: CampaignStats }
  | { readonly type: 'case'; readonly found: Case; readonly seconds: number }
  | { readonly type: 'done'; readonly stats: CampaignStats; readonly programs: readonly Program[] }

export interface RecheckOptions {
  readonly policy: string
  readonly quirks: readonly string[]
  /** Folder of cases. */
  readonly corpus: string | undefined
  /** File of known weaknesses. */
  readonly known: string | undefined
}

export interface Recheck {
  readonly known: readonly Weakness[]
  /** Those of the known ones whose case does not show them any more. */
  readonly mended: readonly Weakness[]
  /** Cases of the corpus that show something that is not known. */
  readonly cases: readonly Found[]
}
