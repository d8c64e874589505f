// SPDX-License-Identifier: Apache-2.0
import type { Recordings } from '../recordings.ts'
import type { recordings } from '../schemas/recordings.ts'
import type { Handlers } from '../schemas/route.ts'

export function recordingHandlers(of: Recordings): Handlers<typeof recordings> {
  return {
    'GET /recordings': async () => ({ items: await of.list() }),
    'GET /recordings/:name/file': ({ params }) => of.file(params.name),
    'POST /recordings/:name/replay': ({ params }) => of.replay(params.name),
    'POST /recordings/:name/compare/:other': ({ params }) => of.compare(params.name, params.other),
    'GET /campaigns': () => ({ items: of.campaigns() }),
    'GET /campaigns/:id': ({ params }) => of.campaign(params.id),
    'GET /campaigns/:id/compare/:other': ({ params }) => of.compareCampaigns(params.id, params.other),
  }
}
