// SPDX-License-Identifier: Apache-2.0
/** What an attack's threads tell each other. */
import type { CampaignOptions, CampaignStats } from './campaign.ts'
import type { Case } from './cases.ts'
import type { Program } from './program.ts'

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
